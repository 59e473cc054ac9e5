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
        "raster_state": _state(str(reader.path)),
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
    """Tells one state of a network's weights from another; None for a model that holds no network of torch."""
    network: Any = getattr(detector, "network", None)
    if not hasattr(network, "state_dict"):
        return None
    crc = 0
    for tensor in network.state_dict().values():
        crc = zlib.crc32(tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8), crc)
    return f"{crc:08x}"


def _parts(reader: RasterReader) -> str | None:
    """Tells files put together from others, and from the same in other places; None for a file by itself."""
    if reader.source.told is None:
        return None
    places = np.zeros(0) if reader.footprints is None else shapely.bounds(reader.footprints).round(_SAME_PLACE)
    return f"{zlib.crc32(places.tobytes(), zlib.crc32(reader.source.told.encode())):08x}"


def _state(path: str) -> list[int] | None:
    """Bytes and time of the last change of a file; None for what is none."""
    if not os.path.isfile(path):
        return None
    state = os.stat(path)
    return [state.st_size, state.st_mtime_ns]
