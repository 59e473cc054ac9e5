"""Resampling as a slow loop over target pixels."""

from __future__ import annotations

import numpy as np


def _shares(n_source: int, n_target: int, i: int) -> dict[int, float]:
    """The weight of each source pixel in target pixel `i` along one axis."""
    scale, shares = n_source / n_target, {}
    if n_source > n_target:
        for k in range(n_source):
            covered = min(k + 1, (i + 1) * scale) - max(k, i * scale)
            if covered > 1e-9:
                shares[k] = covered / scale
        return shares
    centre = min(max((i + 0.5) * scale - 0.5, 0), n_source - 1)
    left = min(int(centre + 1e-9), n_source - 1)
    shares[left] = 1 - (centre - left)
    if left + 1 < n_source:
        shares[left + 1] = centre - left
    return shares


def resampled_slowly(pixels: np.ndarray, valid: np.ndarray, target: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means of the valid source pixels; valid where these weigh at least one half."""
    values, enough = np.zeros((len(pixels), *target)), np.zeros(target, bool)
    for i, j in np.ndindex(*target):
        down, across = _shares(valid.shape[0], target[0], i), _shares(valid.shape[1], target[1], j)
        cells = [(y, x, down[y] * across[x]) for y in down for x in across if valid[y, x]]
        weight = sum(share for *_, share in cells)
        if weight >= 0.5 - 1e-5:
            enough[i, j] = True
            values[:, i, j] = sum(pixels[:, y, x] * share for y, x, share in cells) / weight
    return values, enough


def mostly_valid_slowly(xyxy: np.ndarray, valid: np.ndarray) -> list[bool]:
    """Which boxes hold the centres of at least as many valid pixels as of others; at least one pixel counts."""
    height, width = valid.shape
    kept = []
    for x1, y1, x2, y2 in xyxy:
        columns = [x for x in range(width) if x1 <= x + 0.5 < x2] or [min(max(int(np.ceil(x1 - 0.5)), 0), width - 1)]
        rows = [y for y in range(height) if y1 <= y + 0.5 < y2] or [min(max(int(np.ceil(y1 - 0.5)), 0), height - 1)]
        held = [bool(valid[y, x]) for y in rows for x in columns]
        kept.append(2 * sum(held) >= len(held))
    return kept
