"""Features as single objects: taken apart, mended, points as circles, each once, with a record of what is left out.

Shapes: N features as they are read, O objects of them, P polygons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from jaxtyping import Bool, Float, Int
from pyproj import CRS

from geodetect.errors import LabelsError
from geodetect.grid import Grid
from geodetect.vector.degrees import parts_of_cut
from geodetect.vector.opening import Features

# Why an object is left out, in the order in which reports tell it.
NO_CLASS = "without a class"
DROPPED = "dropped by class_mapping"
NO_GEOMETRY = "without geometry"
NOT_FINITE = "without finite coordinates"
NO_AREAS = "lines"
BEYOND = "beyond the raster's CRS"
FLAT = "without area"
REPEATED = "duplicates"
OUTSIDE = "outside the raster"
_ORDER = (NO_CLASS, DROPPED, NO_GEOMETRY, NOT_FINITE, NO_AREAS, BEYOND, FLAT, REPEATED, OUTSIDE)

AREAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)  # one of two parts is cut at 180 degrees
_MULTI = shapely.GeometryType.MULTIPOINT  # from here on types are made of others
_CIRCLE_CORNERS = 32
_STEP_DEG, _POLE_DEG = 1e-3, 90.0  # over how much the length of a degree is measured, and how far north at most
_SAME = 5e-3  # share of its width by which an outline may differ from a copy: 1 cm of a car, as GeoJSON may round it
_ENDLESS = 1e15  # no map is as large in any unit; files mean "no number" by what is, such as shapefiles by -1e38
_FOUR_CORNERS = 5  # coordinates of a ring with four corners


@dataclass(eq=False)
class Objects:
    """The single objects of features, and why each that is left out is.

    Args:
        features: where they come from.
        names: (O,) class of each, None for none.
        geometry: (O,) in the plane, in the CRS of the file that each comes from.
        rows: (O,) the feature that each is, or is part of.
        reasons: (O,) text; empty for those that are used.
        notes: what else a report has to tell.
    """

    features: Features
    names: np.ndarray
    geometry: np.ndarray
    rows: Int[np.ndarray, "O"]
    reasons: np.ndarray
    notes: tuple[str, ...] = ()

    def leave_out(self, which: Bool[np.ndarray, "O"] | Int[np.ndarray, "M"], reason: str) -> None:
        """Record why some objects are not used; the first reason stays."""
        marked = np.zeros(len(self.reasons), bool)
        marked[which] = True
        self.reasons[marked & (self.reasons == "")] = reason

    @property
    def used(self) -> Int[np.ndarray, "M"]:
        """Numbers of the objects that have not been left out."""
        return np.flatnonzero(self.reasons == "")

    @property
    def lost(self) -> Counter[str]:
        """How many objects were left out for each reason."""
        return _tally(self.reasons)

    def lost_of(self, name: str) -> Counter[str]:
        """How many objects of a class were left out for each reason."""
        return _tally(self.reasons[self.names == name])

    @property
    def complete(self) -> bool:
        """Whether nothing was left out but what lies outside the raster, or is not wanted."""
        return not set(self.lost) - {OUTSIDE, DROPPED}

    @property
    def report(self) -> str:
        """What was read and what was left out, in one line."""
        used = self.used
        classes = len(set(self.names[used]))
        whence = self.features.name
        n_features, n_objects = len(self.features.frame), len(self.names)
        if n_features != n_objects:
            whence += f" ({counted(n_features, 'feature')} with {counted(n_objects, 'part')})"
        told = f"{counted(len(used), 'object')} of {classes:,} class{'' if classes == 1 else 'es'} from {whence}"
        left = f"left out {listed(self.lost)}" if self.lost else ""
        return "; ".join(filter(None, [told, left, self.features.note, *self.notes]))


def objects_of(features: Features, names: np.ndarray | None = None, *, apart: bool = True) -> Objects:
    """Take features apart into single objects; those without a finite geometry are left out, and recorded.

    Args:
        features: polygons, points, and multiparts and collections of them.
        names: (N,) the class of each feature; None for none at all.
        apart: whether the parts of a feature are an object each; else the feature is one.
    """
    files = features.files or (features,)
    flat = shapely.force_2d(np.concatenate([np.asarray(each.frame.geometry.array, dtype=object) for each in files]))
    bare = shapely.is_missing(flat) | shapely.is_empty(flat)
    full = np.flatnonzero(~bare)
    parts, rows = _apart(flat[full], full, files) if apart else (flat[full], full)
    rows = np.concatenate([rows, np.flatnonzero(bare)])
    order = np.argsort(rows, kind="stable")
    geometry, rows = np.concatenate([parts, flat[bare]])[order], rows[order]
    names = np.full(len(flat), None, object) if names is None else names
    objects = Objects(features, names[rows], geometry, rows, np.full(len(rows), "", object))
    objects.leave_out(bare[rows], NO_GEOMETRY)
    objects.leave_out(~is_finite(geometry), NOT_FINITE)
    return objects


def _apart(
    geometry: np.ndarray, source: Int[np.ndarray, "N"], files: Sequence[Features]
) -> tuple[np.ndarray, Int[np.ndarray, "O"]]:
    """As `single`, but what was cut at 180 degrees stays together."""
    parts, rows = single(geometry, source)
    ends = np.cumsum([len(each.frame) for each in files])
    in_degrees = np.array([each.frame.crs is not None and each.frame.crs.is_geographic for each in files])
    cut = np.flatnonzero(in_degrees[np.searchsorted(ends, rows, side="right")] & is_finite(parts))
    kept = np.ones(len(parts), bool)
    parts[cut], kept[cut] = parts_of_cut(parts[cut], rows[cut])
    return parts[kept], rows[kept]


def single(geometry: np.ndarray, source: Int[np.ndarray, "N"]) -> tuple[np.ndarray, Int[np.ndarray, "O"]]:
    """Take multiparts and collections apart, collections in collections too; returns what each part comes from."""
    parts, which = shapely.get_parts(geometry, return_index=True)
    parts, which = parts[~shapely.is_empty(parts)], which[~shapely.is_empty(parts)]
    if (shapely.get_type_id(parts) >= _MULTI).any():
        return single(parts, source[which])
    return parts, source[which]


def is_finite(geometry: np.ndarray) -> Bool[np.ndarray, "P"]:
    """Whether all coordinates of each geometry are finite; bounds do not tell, as they leave NaN out."""
    coordinates, which = shapely.get_coordinates(geometry, return_index=True)
    finite = np.ones(len(geometry), bool)
    finite[which[~(np.abs(coordinates) < _ENDLESS).all(axis=1)]] = False
    return finite


def mended(polygons: np.ndarray) -> np.ndarray:
    """Make polygons valid, each still one object, which may have several parts; None where no area is left.

    A ring of four corners that crosses itself has two of them swapped: its convex hull is what was meant.
    """
    polygons = polygons.copy()
    bad = np.flatnonzero(~shapely.is_valid(polygons))
    hulls = shapely.convex_hull(polygons[bad])
    swapped = (shapely.get_num_coordinates(polygons[bad]) == _FOUR_CORNERS) & (
        shapely.get_num_coordinates(hulls) == _FOUR_CORNERS
    )
    polygons[bad[swapped]] = hulls[swapped]
    # make_valid may leave lines and points beside the polygons; buffer takes only what has an area.
    polygons[bad[~swapped]] = shapely.buffer(shapely.make_valid(polygons[bad[~swapped]]), 0)
    polygons[~(shapely.area(polygons) > 0)] = None
    return polygons


def circles(centres: Float[np.ndarray, "P 2"], radius_m: float, crs: CRS | None) -> np.ndarray:
    """Draw circles of one radius on the ground; in units of the plane where there is no CRS.

    Args:
        centres: in the coordinates of `crs`.
        radius_m: metres.
        crs: of the result too, where circles may be ellipses.
    """
    angle = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
    ring = np.column_stack([np.cos(angle), np.sin(angle)]) * radius_m
    unit = np.ones((len(centres), 2)) if crs is None else units_m(centres, crs)
    return np.asarray(shapely.polygons(centres[:, None] + ring / unit[:, None]), dtype=object)


def units_m(places: Float[np.ndarray, "P 2"], crs: CRS) -> Float[np.ndarray, "P 2"]:
    """Length in metres on the ground of a step of 1 in x and in y, at each place in coordinates of a CRS."""
    step = _STEP_DEG if crs.is_geographic else 1.0
    known = places[np.abs(places[:, 1]) <= _POLE_DEG] if crs.is_geographic else places
    if not len(known):  # no degrees at all, and so on no map either
        return np.ones_like(places)
    middle = np.median(known, axis=0)
    around = Grid((1, 1), Affine.translation(*middle) @ Affine.scale(step), crs, "the map")
    sides = around.pixel_sides_m_at((places - middle) / step)
    # Where the CRS reaches no longitude, and no step has a length, that in the middle has to do.
    return np.where(sides > 0, sides, around.pixel_sides_m) / step


def outlines(polygons: np.ndarray) -> Int[np.ndarray, "P"]:
    """Number the outlines of polygons: those that differ by rounding, or by where their rings begin, are one.

    Args:
        polygons: valid, with an area.
    """
    number, _ = pd.factorize(shapely.to_wkb(shapely.normalize(polygons)))
    first = np.unique(number, return_index=True)[1]
    some = polygons[first]
    bounds = shapely.bounds(some).reshape(-1, 4)
    slack = _SAME * shapely.area(some) / (bounds[:, 2:] - bounds[:, :2]).max(axis=1, initial=0)
    centres = shapely.points((bounds[:, :2] + bounds[:, 2:]) / 2)
    i, j = shapely.STRtree(centres).query(centres, predicate="dwithin", distance=2 * slack)
    i, j = i[i < j], j[i < j]
    alike = shapely.hausdorff_distance(some[i], some[j]) <= slack[i]
    same = np.arange(len(some))
    for earlier, later in sorted(zip(i[alike].tolist(), j[alike].tolist(), strict=True)):
        same[later] = min(same[later], same[earlier])
    return np.asarray(same[number])


def _tally(reasons: np.ndarray) -> Counter[str]:
    """How often each reason is given, those of vector files in their own order first."""
    found = Counter(reasons[reasons != ""])
    return Counter({reason: found.pop(reason) for reason in _ORDER if reason in found} | found)


def points_need_radius(name: str) -> LabelsError:
    """The error to raise for points that nobody knows the size of."""
    return LabelsError(
        f"{name} holds points; give point_radius_m, the radius in metres of the objects that they stand for"
    )


def counted(n: int, what: str) -> str:
    """A number with its noun: 1 object, 2 objects."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def listed(lost: Mapping[str, int]) -> str:
    """How many were left out for each reason, in one line: 1 line, 2 duplicates, 1 without area."""
    one_of = {reason: reason if " " in reason else reason.removesuffix("s") for reason in lost}
    return ", ".join(f"{n:,} {one_of[reason] if n == 1 else reason}" for reason, n in lost.items())
