"""All that the boxes of a scene depend on, by name: a journal is gone on with if it agrees, and a file tells it."""

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

_SAME_PLACE = 2  # decimals of a pixel to which files lie where they lay


def settings_of(reader: RasterReader, detector: DetectsPixels, plan: Plan) -> dict[str, Any]:
    """What one run over one scene is made of, as JSON holds it; runs with equal settings give equal boxes."""
    grid = reader.grid
    return {
        "geodetect": __version__,
        "raster": reader.name,
        "raster_state": state_of(reader),
        "raster_parts": _parts(reader),
        "raster_shape": list(grid.shape),
        "transform": None if grid.transform is None else list(grid.transform[:6]),
        "crs": None if grid.crs is None else grid.crs.to_string(),
        "bands": list(reader.bands),
        "nodata": reader.source.nodata,
        "model": type(detector).__name__,
        "weights": _weights(detector),
        "precision": _text(getattr(detector, "precision", None)),
        "device": _text(getattr(detector, "device", None)),
        "min_score": dict(zip(detector.classes, plan.lowest.tolist(), strict=True)),
        "nms_iou": plan.nms_iou,
        "chip_size": plan.windows.chip_size,
        "overlap": plan.windows.overlap,
        "batch_size": plan.batch_size,
        "tta": plan.tta,
        "aoi": None if plan.area is None else f"{zlib.crc32(shapely.to_wkb(plan.area)):08x}",
    }


def _text(value: Any) -> str | None:
    """How another model may tell of itself, as JSON holds it."""
    return None if value is None else str(value)


def _weights(detector: DetectsPixels) -> str | None:
    """A checksum of a model: its own, or that of the networks of torch that it holds; None where it has neither."""
    if hasattr(detector, "checksum"):
        return str(detector.checksum)
    held = vars(detector) if hasattr(detector, "__dict__") else {}
    networks = [held[name] for name in sorted(held) if hasattr(held[name], "state_dict")]
    if "network" in held and hasattr(held["network"], "state_dict"):  # of ours, beside which lies what runs fast
        networks = [held["network"]]
    crc = 0
    for tensor in (tensor for network in networks for tensor in network.state_dict().values()):
        values = tensor.detach().cpu().float()  # numpy knows no bfloat16
        crc = zlib.crc32(values.contiguous().numpy().reshape(-1).view(np.uint8), crc)
    return f"{crc:08x}" if networks else None


def _parts(reader: RasterReader) -> str | None:
    """Tells files put together from others, and from the same in other places; None for a file by itself."""
    if reader.source.told is None:
        return None
    places = np.zeros(0) if reader.footprints is None else shapely.bounds(reader.footprints).round(_SAME_PLACE)
    return f"{zlib.crc32(places.tobytes(), zlib.crc32(reader.source.told.encode())):08x}"


def state_of(reader: RasterReader) -> str:
    """Tells the files of a scene, as they are now, from what they may become: by their sizes and times of last change.

    Files on a network, and statistics that programs write beside a raster as they show it, do not count.
    """
    crc = 0
    for path in reader.files:
        if os.path.isfile(path) and not path.endswith(".aux.xml"):
            state = os.stat(path)
            crc = zlib.crc32(f"{state.st_size} {state.st_mtime_ns}".encode(), crc)
    return f"{crc:08x}"
