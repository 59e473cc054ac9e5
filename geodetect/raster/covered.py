"""What the files of a scene cover of it, so that nothing is read where there are none."""

from __future__ import annotations

import numpy as np
import shapely

from geodetect.grid import Window
from geodetect.windows import pixels_of


class Covered:
    """What files cover of a grid.

    Args:
        footprints: (N,) their outlines in its pixels.
    """

    def __init__(self, footprints: np.ndarray) -> None:
        self._bounds = pixels_of(footprints)
        self._areas, self._tree = shapely.area(footprints), shapely.STRtree(shapely.box(*self._bounds.T))

    def within(self, window: Window, least: float = 0.0) -> Window | None:
        """The smallest part of a window that holds all that is covered of it; None for no more than `least` pixels."""
        inside = np.array(window.xyxy)
        hit = self._tree.query(shapely.box(*inside))
        if self._areas[hit].sum() <= least:
            return None
        x1, y1 = np.maximum(self._bounds[hit, :2].min(axis=0), inside[:2]).tolist()
        x2, y2 = np.minimum(self._bounds[hit, 2:].max(axis=0), inside[2:]).tolist()
        return Window(x1, y1, x2 - x1, y2 - y1) if x1 < x2 and y1 < y2 else None


def scaled(footprints: np.ndarray | None, own: tuple[int, int], wanted: tuple[int, int]) -> np.ndarray | None:
    """Outlines in the pixels of a grid of one shape in those of another of the same ground."""
    if footprints is None or own == wanted:
        return footprints
    scale = np.array(wanted[::-1]) / own[::-1]
    return np.asarray(shapely.transform(footprints, lambda xy: xy * scale), dtype=object)
