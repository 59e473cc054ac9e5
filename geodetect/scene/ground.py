"""The ground that was searched: the windows that were run, without areas of no data.

Shapes: H W pixels of a window.
"""

from __future__ import annotations

import numpy as np
import shapely
from jaxtyping import Bool

from geodetect.grid import Window

_CELL = 16  # px; holes are excluded in whole squares of this size


def ground_of(window: Window, valid: Bool[np.ndarray, "H W"]) -> shapely.Geometry:
    """Return the part of a window that holds data, in scene pixels.

    It extends to the outermost valid pixels. Inside, squares of 16 px without any valid pixel are excluded; single
    pixels, such as shadows that have the no-data value, are not.

    Args:
        window: position of the mask.
        valid: mask of the valid pixels, at least one.
    """
    if valid.all():
        return shapely.box(*window.xyxy)
    height, width = valid.shape
    rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    padded = np.zeros((-(-height // _CELL) * _CELL, -(-width // _CELL) * _CELL), bool)
    padded[:height, :width] = valid
    cells = np.asarray(padded.reshape(-1, _CELL, padded.shape[1] // _CELL, _CELL).any(axis=(1, 3)))
    # Equal adjacent rows are merged; runs of cells along them begin and end where the next cell differs.
    first = np.flatnonzero(np.append(True, (cells[1:] != cells[:-1]).any(axis=1)))
    edges = np.diff(np.pad(cells[first], ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (row, x1), (_, x2) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    y1, y2 = first[row], np.append(first[1:], len(cells))[row]
    x = np.clip(_CELL * np.array([x1, x2]), columns[0], columns[-1] + 1) + window.x
    y = np.clip(_CELL * np.array([y1, y2]), rows[0], rows[-1] + 1) + window.y
    return join_ground(list(shapely.box(x[0], y[0], x[1], y[1])))


def join_ground(parts: list[shapely.Geometry]) -> shapely.Geometry:
    """Return the union of the parts, without vertices along straight edges."""
    if len(parts) == 1:
        return parts[0]
    return shapely.simplify(shapely.union_all(parts), 0) if parts else shapely.Polygon()
