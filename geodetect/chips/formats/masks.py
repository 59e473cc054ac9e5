"""Masks of COCO: counts of pixels outside and inside in turn, down the columns, as numbers or packed in a text.

The packing is that of https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely

_BITS, _NEGATIVE, _GOES_ON = 5, 0x10, 0x20  # of a character of packed counts


def outline_mask(mask: Mapping[str, Any]) -> list[float]:
    """Return the convex outline of a mask, which has the same bounds and smallest rectangle; empty if it has no pixel.

    X and y alternate.

    Raises:
        KeyError: if its size or its counts are missing.
        ValueError: if the counts are not those of a mask of its size.
    """
    height, width = map(int, mask["size"])
    counts = np.array(_unpack(mask["counts"]) if isinstance(mask["counts"], str) else mask["counts"], int)
    ends = np.cumsum(counts)
    if not len(counts) or counts.min() < 0 or ends[-1] != height * width:
        raise ValueError(f"counts of a mask must sum up to its {width} x {height} px")
    inside = np.flatnonzero(counts[1::2]) * 2 + 1
    first, last = ends[inside] - counts[inside], ends[inside] - 1  # pixels, counted down the columns
    # A run over several columns reaches their bottoms, but for the last one's, and their tops, but for the first one's.
    left, right = (pixels // height * height for pixels in (first, last))
    ends_of_columns = np.stack([left + height - 1, left + height, right - 1, right])[:, left < right]
    x, y = np.divmod(np.concatenate([first, last, ends_of_columns.ravel()]), height)
    corners = np.concatenate([np.stack([x + dx, y + dy], axis=1) for dx in (0, 1) for dy in (0, 1)])
    ring: list[float] = shapely.get_coordinates(shapely.convex_hull(shapely.multipoints(corners)))[:-1].ravel().tolist()
    return ring


def _unpack(text: str) -> list[int]:
    """Return the counts that a text holds, five bits a character; from the fourth on, differences to the last but one.

    Raises:
        ValueError: if it holds another character.
    """
    counts: list[int] = []
    value = shift = 0
    for code in text.encode():
        bits = code - ord("0")
        if not 0 <= bits < 2 * _GOES_ON:
            raise ValueError(f"counts of a mask hold {chr(code)!r}")
        value |= (bits & (_GOES_ON - 1)) << shift
        shift += _BITS
        if not bits & _GOES_ON:
            if bits & _NEGATIVE:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))  # noqa: PLR2004
            value = shift = 0
    return counts
