"""Grids of pixels, windows of them, and the tiling of a scene.

Scene pixels are (x, y), x to the right, y down, (0, 0) the outer corner of the first
pixel. Only `Grid.to_map` and `Grid.to_pixel` convert between pixels and map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from affine import Affine
from jaxtyping import Float
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from geodetect.errors import ArgumentError, NotGeoreferenced, is_number, is_whole
from geodetect.facts import html_table

_SAME_SIZE = 0.01  # relative; resampling to a size closer than this would only blur
_READABLE = 1e15  # larger numbers are shown with an exponent
_FINEST = 64  # pixels, along each axis, that may be made of one
_STEP_DEG = 1e-4  # to the north, 11 m: short enough for any projection to be straight
SLIVER = 1e-4  # px; a smaller overlap with a rectangle of pixels is rounding of map coordinates
_TRUE_SCALE = 0.01  # a projection whose scale is true to within this is not corrected
_WGS84 = CRS.from_epsg(4326)


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels; (x, y) is its upper-left corner."""

    x: int
    y: int
    width: int
    height: int

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """Corners (x1, y1, x2, y2) in the pixels that x and y are in."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def spread(self, n: int, side: int) -> list[Window]:
        """Return windows that sample this one evenly: up to `n` by `n`, each up to `side` pixels wide and high.

        They do not overlap. If they have room for every pixel of the window, they cover all of it.
        """
        spans = []
        for start, length in ((self.x, self.width), (self.y, self.height)):
            edges = np.linspace(start, start + length, min(n, math.ceil(length / side)) + 1).round().astype(int)
            shares = np.diff(edges)
            lengths = np.minimum(shares, side)
            spans.append(list(zip((edges[:-1] + (shares - lengths) // 2).tolist(), lengths.tolist(), strict=True)))
        return [Window(x, y, width, height) for y, height in spans[1] for x, width in spans[0]]


@dataclass(frozen=True)
class Grid:
    """Size, transform and CRS of a raster.

    Args:
        shape: (height, width) in pixels.
        transform: from pixel to map coordinates; None if the raster has none.
        crs: coordinate reference system of the map; None if the raster has none.
        name: of the raster, for messages.
    """

    shape: tuple[int, int]
    transform: Affine | None = None
    crs: CRS | None = None
    name: str = "the raster"

    @property
    def _facts(self) -> dict[str, str]:
        height, width = self.shape
        facts = {"size": f"{width} x {height} px"}
        if self.transform is None:
            return facts | {"CRS": "none, nor a georeference"}
        with suppress(NotGeoreferenced):
            facts["pixel size"] = "{:.4g} x {:.4g} m".format(*self.pixel_sides_m)
        facts["CRS"] = "none" if self.crs is None else ":".join(self.crs.to_authority() or [self.crs.name])
        x1, y1, x2, y2 = self.bounds
        return facts | {"bounds": f"x {x1:.10g} to {x2:.10g}, y {y1:.10g} to {y2:.10g}"}

    def __repr__(self) -> str:
        return f"Grid({self.name}: {', '.join(self._facts.values())})"

    def _repr_html_(self) -> str:
        return html_table(f"Grid of {self.name}", self._facts)

    def to_map(self, xy: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return map coordinates of scene pixels; `to_pixel` undoes it to 1e-6 px.

        Args:
            xy: scene pixels, x right and y down; may lie outside the grid.

        Returns:
            CRS units, easting before northing; shape (0, 2) for no points.

        Raises:
            NotGeoreferenced: if the grid has no transform; the message names the file.
        """
        return _apply(self.known_transform, xy)

    def to_pixel(self, xy: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return scene pixels of map coordinates; `to_map` undoes it.

        Args:
            xy: CRS units, easting before northing.

        Returns:
            x right and y down, also outside the grid; shape (0, 2) for no points.

        Raises:
            NotGeoreferenced: if the grid has no transform; the message names the file.
        """
        return _apply(~self.known_transform, xy)

    @property
    def known_transform(self) -> Affine:
        """The transform.

        Raises:
            NotGeoreferenced: if there is none; the message names the file.
        """
        if self.transform is None:
            raise NotGeoreferenced(
                f"{self.name} has no georeference, so its pixels have no map coordinates; "
                "give it one (gdal_translate -a_srs EPSG:... -a_ullr ...) or work in pixels"
            )
        return self.transform

    def in_plane(self) -> Grid:
        """Return this grid, or, if it has no transform, one whose map coordinates are its pixels."""
        return self if self.transform is not None else replace(self, transform=Affine.identity())

    def window(self, window: Window) -> Grid:
        """Return the grid of a window; (x, y) of this grid is (x - window.x, y - window.y) of that."""
        transform = self.transform and self.transform @ Affine.translation(window.x, window.y)
        return replace(self, shape=(window.height, window.width), transform=transform)

    def resample(self, pixel_size_m: float | None) -> Grid:
        """Return a grid of the same ground with square pixels of another size; itself if the size is equal to 1 %.

        Raises:
            ArgumentError: if the size is not above 0, less than 1/64 of a pixel, or larger than the scene.
            NotGeoreferenced: if the pixels of this grid have no size in metres.
        """
        if pixel_size_m is None:
            return self
        if not (is_number(pixel_size_m) and pixel_size_m > 0):
            raise ArgumentError(f"pixel_size_m must be above 0 (metres on the ground); got {pixel_size_m!r}")
        ratios = [side / pixel_size_m for side in self.pixel_sides_m]
        if all(abs(ratio - 1) < _SAME_SIZE for ratio in ratios):
            return self
        if max(ratios) > _FINEST:
            times, (across, down) = max(ratios), (n * ratio for n, ratio in zip(self.shape[::-1], ratios, strict=True))
            raise ArgumentError(
                f"pixel_size_m={pixel_size_m:g} makes {_digits(times)} x {_digits(times)} px of each pixel of "
                f"{self.name}, which measures {self.pixel_size_m:.4g} m, and {_digits(across)} x {_digits(down)} px in "
                f"all; more than {_FINEST} x {_FINEST} show nothing new: give metres on the ground"
            )
        width, height = (round(n * ratio) for n, ratio in zip(self.shape[::-1], ratios, strict=True))
        if min(width, height) < 1:
            raise ArgumentError(
                f"pixel_size_m={pixel_size_m} is larger than the whole of {self.name}; "
                f"its pixels measure {self.pixel_size_m:.4g} m"
            )
        scale = Affine.scale(self.shape[1] / width, self.shape[0] / height)
        return replace(self, shape=(height, width), transform=self.known_transform @ scale)

    @property
    def pixel_size_m(self) -> float:
        """Side of a square with a pixel's area, in metres on the ground at the scene's centre.

        Raises:
            NotGeoreferenced: if there is no transform or no CRS.
        """
        return math.sqrt(math.prod(self.pixel_sides_m))

    @cached_property
    def pixel_sides_m(self) -> tuple[float, float]:
        """Width and height of a pixel in metres on the ground at the scene's centre.

        In a projected CRS whose scale is true to within 1 % (as UTM's), these are its units in metres; otherwise
        (degrees, Web Mercator far from the equator) they are geodesic.

        Raises:
            NotGeoreferenced: if there is no transform or no CRS, or coordinates in degrees are out of range.
        """
        height, width = self.shape
        (sides,) = self.pixel_sides_m_at(np.array([[width / 2, height / 2]]))
        return float(sides[0]), float(sides[1])

    def pixel_sides_m_at(self, xy: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return width and height of the pixel at each place, in metres on the ground; see `pixel_sides_m`.

        Args:
            xy: scene pixels.

        Raises:
            NotGeoreferenced: if there is no transform or no CRS, or coordinates in degrees are out of range.
        """
        transform, crs = self.known_transform, self._known_crs
        across = math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)
        (true,) = self._geodesic_sides(crs, np.array([self.shape[::-1]]) / 2)
        if crs.is_geographic and not true.all():
            raise NotGeoreferenced(
                f"the coordinates of {self.name} are not degrees of {crs.name}, so the size of its pixels in metres "
                "is unknown; assign the right CRS (gdal_edit.py -a_srs EPSG:...)"
            )
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        nominal = np.array(across) * unit
        distorted = true.all() and np.abs(nominal / true - 1).max() >= _TRUE_SCALE
        if crs.is_geographic or distorted:
            return self._geodesic_sides(crs, xy)
        return np.broadcast_to(nominal, (len(xy), 2))

    @property
    def _known_crs(self) -> CRS:
        if self.crs is None:
            raise NotGeoreferenced(
                f"{self.name} has no coordinate reference system, so the size of its pixels in metres "
                "is unknown; assign one, or leave pixel_size_m and point_radius_m out"
            )
        return self.crs

    def _geodesic_sides(self, crs: CRS, xy: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return the pixels' sides at these places along the ellipsoid; 0 outside the CRS."""
        # Corners of a pixel round each place: the place itself, one pixel on, one pixel down.
        corners = self.to_map((xy[None] + np.array([[[0, 0]], [[1, 0]], [[0, 1]]])).reshape(-1, 2))
        try:
            geographic = crs.geodetic_crs or _WGS84
            lon, lat = Transformer.from_crs(crs, geographic, always_xy=True).transform(*corners.T)
            geod = geographic.get_geod() or Geod(ellps="WGS84")
            (lon, right_lon, low_lon), (lat, right_lat, low_lat) = lon.reshape(3, -1), lat.reshape(3, -1)
            pairs = [geod.inv(lon, lat, *to)[2] for to in ((right_lon, right_lat), (low_lon, low_lat))]
        except ProjError:
            return np.zeros((len(xy), 2))
        sides = np.column_stack(pairs)
        return np.where(np.isfinite(sides).all(axis=1, keepdims=True), sides, 0.0)

    def to_lonlat(self, xy: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return longitude and latitude of scene pixels in degrees (WGS 84); NaN outside the CRS.

        Args:
            xy: scene pixels.

        Raises:
            NotGeoreferenced: if there is no transform or no CRS.
        """
        crs, places = self._known_crs, self.to_map(xy)
        try:
            lonlat = np.column_stack(Transformer.from_crs(crs, _WGS84, always_xy=True).transform(*places.T))
        except ProjError:  # a CRS that is not of the earth
            return np.full_like(places, np.nan)
        return np.where(np.isfinite(lonlat).all(axis=1, keepdims=True), lonlat, np.nan)

    @property
    def north(self) -> tuple[float, float]:
        """Unit vector to the north at the scene's centre, in pixels; up the map if the CRS is not of the earth.

        Raises:
            NotGeoreferenced: if there is no transform or no CRS.
        """
        crs, centre = self._known_crs, np.array([[self.shape[1] / 2, self.shape[0] / 2]])
        place = self.to_map(centre)
        there: np.ndarray = place + np.array([0.0, 1.0])
        with suppress(ProjError):
            to_degrees = Transformer.from_crs(crs, crs.geodetic_crs or _WGS84, always_xy=True)
            lon, lat = to_degrees.transform(*place.T)
            moved = np.stack(to_degrees.transform(lon, lat + _STEP_DEG, direction="INVERSE"), axis=1)
            if np.isfinite(moved).all() and (moved != place).any():
                there = moved
        step = (self.to_pixel(there) - centre)[0]
        x, y = step / np.hypot(*step)
        return float(x), float(y)

    @property
    def corners(self) -> Float[np.ndarray, "4 2"]:
        """Map coordinates of the four outer corners, in order around the grid (pixels without a transform)."""
        height, width = self.shape
        return self.in_plane().to_map(np.array([[0, 0], [width, 0], [width, height], [0, height]], float))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Bounds in map coordinates: min x, min y, max x, max y."""
        low, high = self.corners.min(axis=0), self.corners.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number < _READABLE else f"{number:.0e}"


def _apply(transform: Affine, xy: np.ndarray) -> np.ndarray:
    xy = np.asarray(xy, float).reshape(-1, 2)
    matrix = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    return np.asarray(xy @ matrix + np.array([transform.c, transform.f]))


@dataclass(frozen=True)
class Tiling(Sequence[Window]):
    """The windows of a scene, row by row, inside its edges.

    Every box no larger than `overlap` on a side lies whole in some window. The last window of a row or column is moved
    back to end at the scene's edge; along a side shorter than `chip_size`, there is one window of the scene's size.

    Args:
        shape: (height, width) of the scene, or of the part of it that is tiled, in pixels.
        chip_size: side of a window in pixels.
        overlap: minimum overlap of neighbours in pixels.
        x: left edge of the part in the scene.
        y: top edge of the part in the scene.

    Raises:
        ArgumentError: if `overlap` leaves no stride, or a value is not possible.
    """

    shape: tuple[int, int]
    chip_size: int
    overlap: int = 0
    x: int = 0
    y: int = 0

    def __post_init__(self) -> None:
        whole = is_whole(self.chip_size) and is_whole(self.overlap)
        if not whole or self.chip_size < 1 or self.overlap < 0:
            raise ArgumentError(
                f"chip_size must be at least 1 and overlap at least 0 (whole pixels); "
                f"got chip_size={self.chip_size!r}, overlap={self.overlap!r}"
            )
        if self.overlap >= self.chip_size:
            raise ArgumentError(
                f"overlap must be smaller than chip_size to leave a stride; "
                f"got overlap={self.overlap}, chip_size={self.chip_size}"
            )

    @property
    def n_rows(self) -> int:
        """Number of rows of windows."""
        return self._count(self.shape[0])

    @property
    def n_columns(self) -> int:
        """Number of windows in a row."""
        return self._count(self.shape[1])

    def _count(self, length: int) -> int:
        return 1 + max(0, -(-(length - self.chip_size) // self.stride))

    def __len__(self) -> int:
        return self.n_rows * self.n_columns

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        """Return the window with this index, counted along rows from the upper left."""
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return self._at(index % len(self))

    @property
    def stride(self) -> int:
        """Distance of neighbouring windows in pixels."""
        return self.chip_size - self.overlap

    @property
    def ground(self) -> Window:
        """Union of the windows."""
        return Window(self.x, self.y, self.shape[1], self.shape[0])

    def _at(self, index: int) -> Window:
        row, column = divmod(index, self.n_columns)
        y, height = self._span(row, self.shape[0])
        x, width = self._span(column, self.shape[1])
        return Window(self.x + x, self.y + y, width, height)

    def _span(self, number: int, length: int) -> tuple[int, int]:
        """Return start and length of the window with this index along one axis."""
        size = min(self.chip_size, length)
        return min(number * self.stride, length - size), size
