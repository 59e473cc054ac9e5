"""Settings that the boxes of a scene depend on: compared before a journal is resumed, and stored in the output."""

from __future__ import annotations

import os
import zlib
from typing import Any

import numpy as np
import shapely

from geodetect import __version__
from geodetect.raster import RasterReader
from geodetect.scene.models import DetectsPixels
from geodetect.scene.plan import Plan

_SAME_PLACE = 2  # decimals of a pixel to which the positions of files are compared


def settings_of(reader: RasterReader, detector: DetectsPixels, plan: Plan) -> dict[str, Any]:
    """Return the settings of a run over a scene, JSON-serialisable; runs with equal settings give equal boxes."""
    grid, parts = reader.grid, None
    if reader.scene.identity is not None:  # a mosaic
        places = np.zeros(0) if reader.footprints is None else shapely.bounds(reader.footprints).round(_SAME_PLACE)
        parts = f"{zlib.crc32(places.tobytes(), zlib.crc32(reader.scene.identity.encode())):08x}"
    return {
        "geodetect": __version__,
        "raster": reader.name,
        "raster_state": state_of(reader),
        "raster_parts": parts,
        "raster_shape": list(grid.shape),
        "transform": None if grid.transform is None else list(grid.transform[:6]),
        "crs": None if grid.crs is None else grid.crs.to_string(),
        "bands": list(reader.bands),
        "nodata": reader.scene.nodata,
        "model": type(detector).__name__,
        "weights": _weights(detector),
        "precision": _text(getattr(detector, "precision", None)),
        "device": _text(getattr(detector, "device", None)),
        "min_score": dict(zip(detector.classes, plan.selection.lowest.tolist(), strict=True)),
        "nms_iou": plan.selection.nms_iou,
        "chip_size": plan.windows.chip_size,
        "overlap": plan.windows.overlap,
        "batch_size": plan.batch_size,
        "tta": plan.tta,
        **({"oriented": True} if plan.oriented else {}),  # journals of upright boxes do not have it
        "aoi": None if plan.selection.area is None else f"{zlib.crc32(shapely.to_wkb(plan.selection.area)):08x}",
    }


def _text(value: Any) -> str | None:
    """Return an attribute of a custom model as JSON-serialisable text."""
    return None if value is None else str(value)


def _weights(detector: DetectsPixels) -> str | None:
    """Return the model's own checksum, or one of the torch modules that it holds; None if it has neither."""
    if hasattr(detector, "checksum"):
        return str(detector.checksum)
    held = vars(detector) if hasattr(detector, "__dict__") else {}
    networks = [held[name] for name in sorted(held) if hasattr(held[name], "state_dict")]
    if "network" in held and hasattr(held["network"], "state_dict"):  # ours, which may hold a frozen copy too
        networks = [held["network"]]
    crc = 0
    for tensor in (tensor for network in networks for tensor in network.state_dict().values()):
        values = tensor.detach().cpu().float()  # numpy has no bfloat16
        crc = zlib.crc32(values.contiguous().numpy().reshape(-1).view(np.uint8), crc)
    return f"{crc:08x}" if networks else None


def state_of(reader: RasterReader) -> str:
    """Return a checksum of the sizes and modification times of a scene's files.

    Remote files and `.aux.xml` files, which viewers write beside a raster, are ignored.
    """
    crc = 0
    for path in reader.files:
        if os.path.isfile(path) and not path.endswith(".aux.xml"):
            state = os.stat(path)
            crc = zlib.crc32(f"{state.st_size} {state.st_mtime_ns}".encode(), crc)
    return f"{crc:08x}"
