"""Accuracy of PROJ's transformations between datums, and what would improve it.

PROJ comes without the grids that the best datum shifts need, and uses the next best one without a warning:
https://proj.org/en/stable/resource_files.html
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError
from pyproj.transformer import AreaOfInterest, TransformerGroup

from geodetect.errors import warn
from geodetect.vector.features import Features, Target

_MODERN_AXIS_M = 6_378_137  # of GRS 80 and WGS 84, on which datums since the 1980s are built
# "ENSEMBLEACCURACY[2.0]" in the definition of WGS 84 (https://epsg.io/4326.wkt2): its own realisations, and datums
# like it, differ by as much, and no transformation to it is known to be better.
_ENSEMBLE_M = 2.0
_SHIFT_M = 0.01  # datums that lie closer count as one
_REAL_SHIFT_M = 1.0  # a shift known to better than this is real, also where PROJ takes two datums as one without it
_WORTH_IT = 0.75  # a grid is worth a warning if its error is below this share of the present one
_AROUND_DEG = 0.01  # half a side of the area that a shift is looked for in


class _Shift(NamedTuple):
    """A datum shift of PROJ at a place: its accuracy, and a more accurate operation whose grid is missing.

    The accuracy is infinite where PROJ takes two old datums as one; the operation is None where there is no better one.
    """

    accuracy_m: float
    better: Any

    @classmethod
    def between(cls, crs: CRS, to: CRS, place: Float[np.ndarray, "2"], limit_m: float) -> _Shift | None:
        """Return how PROJ shifts datums at a place; None where there is nothing to shift.

        Raises:
            ProjError: if no transformation leads from one CRS to the other.
        """
        transformer = Transformer.from_crs(crs, to, always_xy=True)
        origin = np.array(transformer.transform(place[0], place[1], direction="INVERSE"))
        after, before = _to_lonlat(to, place), _to_lonlat(crs, origin)
        if not np.isfinite([*after, *before]).all():
            return None
        transformer.transform(*origin)
        try:
            used = transformer.get_last_used_operation()
        except ProjError:  # where there is but one operation, PROJ keeps no record
            used = transformer
        a, b = crs.ellipsoid, to.ellipsoid
        assert a is not None  # as PROJ knows a transformation
        assert b is not None
        # PROJ takes datums as one that it knows nothing of or has no grid for; those of today lie close to each other.
        ballpark = "Ballpark geographic offset" in used.description
        modern = all(abs(each.semi_major_metre - _MODERN_AXIS_M) < 1 for each in (a, b))
        accuracy_m = (_ENSEMBLE_M if modern else math.inf) if ballpark else float(used.accuracy)
        moves = Geod(ellps="WGS84").inv(*before, *after)[2] > _SHIFT_M
        # NAD83 and WGS 84 were equal when they were defined, and coordinates are taken from one to the other unchanged.
        enough_m = math.inf if moves or ballpark else min(limit_m, _REAL_SHIFT_M)
        useful_m = min(accuracy_m * _WORTH_IT, enough_m)
        lon, lat = after
        around = AreaOfInterest(lon - _AROUND_DEG, lat - _AROUND_DEG, lon + _AROUND_DEG, lat + _AROUND_DEG)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a grid is missing, which we say ourselves
            lacking = TransformerGroup(crs, to, always_xy=True, area_of_interest=around).unavailable_operations
        better = [each for each in lacking if 0 <= each.accuracy < useful_m]
        if better:
            return cls(accuracy_m, better[0])  # PROJ's first choice for the place
        # A sphere is an ellipsoid for maps, and has no datum of its own.
        spherical = 0.0 in (a.inverse_flattening, b.inverse_flattening)
        differ = not spherical and abs(a.semi_major_metre - b.semi_major_metre) > 1
        return cls(accuracy_m, None) if moves or (ballpark and differ) else None


def warn_of_datum(features: Features, target: Target) -> None:
    """Warn where features are shifted to the datum of a target with an error above its tolerance."""
    if target.centre is None or target.tolerance_m is None:
        return
    for crs in dict.fromkeys(each.frame.crs for each in features.by_file):
        warn_of_shift(features.name, crs, target.crs, target.centre, limit_m=target.tolerance_m, limit=target.tolerance)


def warn_of_shift(
    name: str, crs: CRS | None, to: CRS | None, place: Float[np.ndarray, "2"], *, limit_m: float, limit: str
) -> None:
    """Warn where coordinates are shifted to another datum with an error above a limit.

    Args:
        name: what messages call the data.
        crs: of the data; None without one.
        to: that they are shifted to.
        place: where the shift is evaluated, in coordinates of `to`.
        limit_m: an error that does no harm.
        limit: name of that length, such as "a pixel".
    """
    if crs is None or to is None or crs == to:
        return
    try:
        shift = _Shift.between(crs.to_2d(), to.to_2d(), place, limit_m)
    except ProjError:
        return  # not on earth, or beyond one of the two, which other messages report
    if shift is None or shift.accuracy_m <= limit_m:
        return
    accuracy = f"an accuracy of {shift.accuracy_m:.3g} m" if math.isfinite(shift.accuracy_m) else "an unknown accuracy"
    ours, theirs = (each.geodetic_crs.name if each.geodetic_crs else each.name for each in (crs, to))
    shifted = f"{name}: the datum shift from {ours} to {theirs} has {accuracy}, and {limit} is {limit_m:.2g} m"
    if shift.better is not None:
        grids = [grid for grid in shift.better.grids if not grid.available]
        if all(grid.url for grid in grids):
            commands = ", ".join(f"pyproj sync --file {grid.short_name}" for grid in grids)
            remedy = f"install it ({commands}) or set PROJ_NETWORK=ON"
        else:
            names = " and ".join(grid.short_name for grid in grids)
            remedy = f"put {names} into the folder that pyproj.datadir.get_user_data_dir() names"
        warn(f"{shifted}; with a grid that PROJ lacks it is {shift.better.accuracy:.2g} m: {remedy}")
    elif shift.accuracy_m > _ENSEMBLE_M:
        warn(f"{shifted}; check its CRS, or bring it into {to.name} with a program that knows a better transformation")


def _to_lonlat(crs: CRS, xy: Float[np.ndarray, "2"]) -> tuple[float, float]:
    """Return degrees of a place in its own datum, east before north."""
    lon, lat = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(*xy)
    return float(lon), float(lat)
