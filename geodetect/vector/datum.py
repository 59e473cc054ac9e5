"""Accuracy of PROJ's transformations between datums, and what would improve it.

PROJ comes without the grids that the best datum shifts need, and uses the next best one without a warning:
https://proj.org/en/stable/resource_files.html
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError
from pyproj.transformer import AreaOfInterest, TransformerGroup

from geodetect.errors import warn
from geodetect.vector.features import Features, Target

_MODERN_AXIS_M = 6_378_137  # of GRS 80 and WGS 84, on which datums since the 1980s are built
# "ENSEMBLEACCURACY[2.0]" in the definition of WGS 84 (https://epsg.io/4326.wkt2): its own realisations, and datums
# like it, lie apart by as much, and no way to it is known to be better.
_ENSEMBLE_M = 2.0
_SHIFT_M = 0.01  # datums that lie closer are taken as one
_REAL_SHIFT_M = 1.0  # a shift known to better than this is real, also where PROJ takes two datums as one without it
_WORTH_IT = 0.75  # of the accuracy that there is, which a grid has to come below to be worth a word
_AROUND_DEG = 0.01  # half a side of the area that a shift is looked for in


@dataclass(frozen=True)
class _Shift:
    """A datum shift as PROJ does it at some place.

    Args:
        accuracy_m: of what PROJ does; infinite where it takes two old datums as one.
        better: the best shift that PROJ knows and has no grid for; None where there is none.
    """

    accuracy_m: float
    better: Any


def warn_of_datum(features: Features, target: Target) -> None:
    """Warn where features are shifted to the datum of a target with an error above its tolerance."""
    if target.centre is None or target.tolerance_m is None:
        return
    for crs in dict.fromkeys(each.frame.crs for each in features.by_file):
        warn_of_shift(features.name, crs, target.crs, target.centre, limit_m=target.tolerance_m, limit=target.tolerance)


def warn_of_shift(
    name: str, crs: CRS | None, to: CRS | None, place: Float[np.ndarray, "2"], *, limit_m: float, limit: str
) -> None:
    """Warn where coordinates are shifted to another datum less accurately than they should be.

    Args:
        name: what messages call what was shifted.
        crs: where the coordinates come from; None for nowhere.
        to: where they are now.
        place: where to ask, in coordinates of `to`.
        limit_m: an inaccuracy that does no harm.
        limit: what is as large as `limit_m`, such as "a pixel".
    """
    if crs is None or to is None or crs == to:
        return
    try:
        shift = _shift(crs.to_2d(), to.to_2d(), place, limit_m)
    except ProjError:
        return  # not on earth, or beyond one of the two: other messages tell that
    if shift is None or shift.accuracy_m <= limit_m:
        return
    accuracy = f"an accuracy of {shift.accuracy_m:.3g} m" if math.isfinite(shift.accuracy_m) else "an unknown accuracy"
    told = f"{name}: the datum shift from {_datum(crs)} to {_datum(to)} has {accuracy}, and {limit} is {limit_m:.2g} m"
    if shift.better is not None:
        warn(f"{told}; with a grid that PROJ lacks it is {shift.better.accuracy:.2g} m: {_advice(shift.better)}")
    elif shift.accuracy_m > _ENSEMBLE_M:
        warn(f"{told}; check its CRS, or bring it into {to.name} with a program that knows a better transformation")


def _shift(crs: CRS, to: CRS, place: Float[np.ndarray, "2"], limit_m: float) -> _Shift | None:
    """How PROJ shifts datums at a place; None where there is nothing to shift.

    Raises:
        ProjError: if no way leads from one CRS to the other.
    """
    move = Transformer.from_crs(crs, to, always_xy=True)
    origin = np.array(move.transform(place[0], place[1], direction="INVERSE"))
    after, before = _lonlat(to, place), _lonlat(crs, origin)
    if not np.isfinite([*after, *before]).all():
        return None
    move.transform(*origin)
    try:
        used = move.get_last_used_operation()
    except ProjError:  # where there is but one operation, PROJ keeps no record
        used = move
    ballpark = "Ballpark geographic offset" in used.description
    accuracy_m = _ballpark_m(crs, to) if ballpark else float(used.accuracy)
    moves = Geod(ellps="WGS84").inv(*before, *after)[2] > _SHIFT_M
    # NAD83 and WGS 84 were one when they came to be, and that is how coordinates are taken from one to the other.
    enough_m = math.inf if moves or ballpark else min(limit_m, _REAL_SHIFT_M)
    useful_m = min(accuracy_m * _WORTH_IT, enough_m)
    known = [each for each in _without_grid(crs, to, *after) if 0 <= each.accuracy < useful_m]
    if known:
        return _Shift(accuracy_m, known[0])  # PROJ's first choice for the place
    return _Shift(accuracy_m, None) if moves or (ballpark and _differ(crs, to)) else None


def _without_grid(crs: CRS, to: CRS, lon: float, lat: float) -> list[Any]:
    """The operations that PROJ knows at a place and has no grid for."""
    around = AreaOfInterest(lon - _AROUND_DEG, lat - _AROUND_DEG, lon + _AROUND_DEG, lat + _AROUND_DEG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a grid is missing, which we tell ourselves
        return list(TransformerGroup(crs, to, always_xy=True, area_of_interest=around).unavailable_operations)


def _lonlat(crs: CRS, xy: Float[np.ndarray, "2"]) -> tuple[float, float]:
    """Degrees of a place in its own datum, east before north."""
    lon, lat = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(*xy)
    return float(lon), float(lat)


def _ballpark_m(crs: CRS, to: CRS) -> float:
    """How far two datums may lie apart that PROJ takes as one, as it knows nothing of them or has no grid."""
    modern = all(abs(each.semi_major_metre - _MODERN_AXIS_M) < 1 for each in _ellipsoids(crs, to))
    return _ENSEMBLE_M if modern else math.inf


def _differ(crs: CRS, to: CRS) -> bool:
    """Whether two datums stand on different ellipsoids; a sphere is one for maps, and has no datum of its own."""
    a, b = _ellipsoids(crs, to)
    spherical = 0.0 in (a.inverse_flattening, b.inverse_flattening)
    return not spherical and abs(a.semi_major_metre - b.semi_major_metre) > 1


def _ellipsoids(crs: CRS, to: CRS) -> tuple[Any, Any]:
    """The ellipsoids of two CRSs that PROJ knows a way between, so that they have one."""
    return crs.ellipsoid, to.ellipsoid


def _advice(operation: Any) -> str:
    """How to get the grids that an operation lacks."""
    grids = [grid for grid in operation.grids if not grid.available]
    if all(grid.url for grid in grids):
        commands = ", ".join(f"pyproj sync --file {grid.short_name}" for grid in grids)
        return f"install it ({commands}) or set PROJ_NETWORK=ON"
    names = " and ".join(grid.short_name for grid in grids)
    return f"put {names} into the folder that pyproj.datadir.get_user_data_dir() names"


def _datum(crs: CRS) -> str:
    """What a datum is usually called: the name of the CRS in degrees on it."""
    return str(crs.geodetic_crs.name if crs.geodetic_crs else crs.name)
