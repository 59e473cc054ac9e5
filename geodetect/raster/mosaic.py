"""Many files as one scene: a tile index that GDAL opens as one dataset.

Each file is described to GDAL as a small virtual raster that makes it like its neighbours (its data bands alone, an
alpha band as the mask that it is), and a tile index (https://gdal.org/drivers/raster/gti.html) of all of them is
one dataset. GDAL opens a file when pixels of it are read, and fails if it is missing; the index alone would leave
a hole. The index is kept in memory and freed with the `Scene` and its readers.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from geodetect.boxes import connected_components
from geodetect.errors import RasterError, harmless, warn
from geodetect.grid import Grid
from geodetect.raster.header import Header, Scene, open_single, read_headers
from geodetect.raster.masks import ANY, check_nodata
from geodetect.raster.opening import FAILURES, Location, Rasters, environment, list_files
from geodetect.raster.stac import locate_item
from geodetect.raster.virtual import describe, respell_index, write_index

_ALPHA_FILES = 8  # whose alpha band is sampled; it is a mask in all files or in none
_ALIGNED = 0.01  # px; files closer than this to one grid of pixels are not resampled
_SAME_GROUND = 0.5  # of the smaller of two files; neighbours share less
_MOST_PIXELS = 2**31 - 1  # along a side of a raster of GDAL's
_TORN = 10  # pixels warped to as many times their size lie at the edge of a CRS, or far outside it


@dataclass(frozen=True, eq=False)
class _Index(Location):
    """A tile index in memory, in other processes too, as long as this object lives.

    `text` describes it, with `{index}` for the name of its file.

    Args:
        content: that file, a GeoPackage.
    """

    content: bytes = b""

    @cached_property
    def _file(self) -> str:
        memory = MemoryFile(self.content, ext=".gpkg")
        weakref.finalize(self, memory.close)
        return str(memory.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Index, (self.text, self.is_virtual, self.is_remote, self.content)

    def respell(self, number: int) -> _Index:
        """Return the same index with names of its files that differ for each number."""
        return replace(self, content=respell_index(self.content, number))

    def open(self, level: int | None = None) -> Any:
        """Open the index, or the overview with this index."""
        return Location(self.text.replace("{index}", self._file)).open(level)


def open_scene(
    raster: Rasters,
    bands: Sequence[int | str] | None = None,
    nodata: float | None = None,
    *,
    progress: bool = False,
) -> Scene:
    """Open a file, or several as a mosaic.

    Args:
        raster: the file or files.
        bands: those that will be read; an item of a catalog keeps each in a file of its own.
        nodata: no-data value besides those that the files declare.
        progress: show a bar while many files are opened.

    Raises:
        RasterError: if a file is missing or cannot be read, or several do not go together.
        ArgumentError: if `nodata` is not a number.
    """
    files, name = _locate(raster, bands, nodata)
    if len(files) == 1:
        return open_single(*files[0], nodata)
    return _open_mosaic(_check_names(read_headers(files, nodata, progress=progress), bands), name, nodata)


def open_scenes(raster: Rasters, bands: Sequence[int | str] | None = None, nodata: float | None = None) -> list[Scene]:
    """Open files as scenes, each with a grid of its own: files that touch each other are one scene.

    Raises:
        GeodetectError: as `open_scene`.
    """
    files, name = _locate(raster, bands, nodata)
    if len(files) == 1:
        return [open_single(*files[0], nodata)]
    headers = _check_names(read_headers(files, nodata), bands)
    outlines = np.array([shapely.Polygon(file.grid.corners) for file in headers], object)
    # A little larger, so that rounding does not separate neighbours.
    sides = shapely.length(outlines) / [2 * sum(file.grid.shape) for file in headers]
    outlines = shapely.buffer(outlines, _ALIGNED * sides, join_style="mitre")
    a, b = shapely.STRtree(outlines).query(outlines, "intersects")
    same_crs = np.array([headers[i].grid.crs == headers[j].grid.crs for i, j in zip(a, b, strict=True)])
    group = connected_components(len(headers), a[same_crs], b[same_crs])
    groups = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    scenes = []
    for first, *others in ([headers[i] for i in group] for group in groups):
        if others:
            together = name if len(groups) == 1 else f"{first.name} and those beside it"
            scenes.append(_open_mosaic([first, *others], together, nodata))
        else:
            scenes.append(open_single(first.location, first.name, nodata))
        scenes[-1].handles.close()  # a process cannot hold thousands open; readers open them again
    return scenes


def _locate(
    raster: Rasters, bands: Sequence[int | str] | None, nodata: float | None
) -> tuple[list[tuple[Location, str]], str]:
    """Return location and name of each file, and the name of all."""
    check_nodata(nodata)
    files, name = list_files(raster)
    return [locate_item(file, bands, nodata) for file in files], name


def _open_mosaic(files: Sequence[Header], name: str, nodata: float | None) -> Scene:
    """Open several files as one scene; where they overlap, the later one counts.

    Files in another CRS, or of another pixel size, than most are resampled to the grid of the others on reading.

    Raises:
        RasterError: if they do not go together; the message names the file that does not.
    """
    frame = _choose_frame(files := _with_masks(files))
    grid, footprints = _lay_out(files, frame, name)
    corners = np.concatenate([frame.to_pixel(file.grid.corners[:1]) for file in files])
    aligned = np.abs(corners - corners.round()).max() < _ALIGNED and all(_is_parallel(f.grid, frame) for f in files)
    upright = _is_upright(frame)
    location = _Index(
        describe(files, grid, upright=upright, resampled=not aligned),
        is_virtual=True,
        is_remote=any(file.location.is_remote for file in files),
        content=write_index(files, grid, footprints, upright=upright),
    )
    # Pixels of a palette have become colours, and GDAL has masked those that are no data.
    undeclared = None if any(file.layers.palette is not None for file in files) else nodata
    scene = open_single(location, name, undeclared)
    return replace(
        scene,
        header=replace(scene.header, grid=grid),
        nodata=nodata,
        footprints=footprints,
        identity="\n".join(file.location.identity or file.name for file in files),
        files=[file.location.text for file in files],
    )


def _check_names(files: list[Header], bands: Sequence[int | str] | None) -> list[Header]:
    """Return the files if bands given by name have the same number in all of them.

    Raises:
        RasterError: naming two files that differ.
    """
    for band in [band for band in bands or () if isinstance(band, str)]:
        numbers = [file.layers.select((band,), file.name) for file in files]
        for file, number in zip(files, numbers, strict=True):
            if number != numbers[0]:
                raise RasterError(
                    f"band {band!r} is number {numbers[0][0]} of {files[0].name} and number {number[0]} of "
                    f"{file.name}, and the bands of one scene are read by number; bring them into one order first "
                    "(gdal_translate -b)"
                )
    return files


def _with_masks(files: Sequence[Header]) -> Sequence[Header]:
    """Return the files with alpha bands as masks if they are masks in all files, so that all have the same data bands.

    Some programs tag near infrared as alpha. A file without an alpha band is valid throughout.

    Raises:
        RasterError: if number of bands, dtype, or scale and offset differ.
    """
    tagged = [file for file in files if file.tagged is not None]
    if tagged and not {file.n_bands for file in tagged} & {file.n_bands for file in files if file.tagged is None}:
        sample = np.unique(np.linspace(0, len(tagged) - 1, _ALPHA_FILES).astype(int))
        found = [tagged[i].read_alpha_threshold() for i in sample]
        known = [threshold for threshold in found if threshold is not None]
        if len(known) == len(found):
            # A file that is transparent wherever it was sampled says nothing; of the others the lowest hides no pixel.
            threshold = min((threshold for threshold in known if threshold > ANY), default=ANY)
            files = [file.with_mask(threshold) for file in files]
    first = files[0]
    for file in files:
        if file.n_bands != first.n_bands:
            raise RasterError(
                f"the files of one scene must have the same number of bands; {first.name} has {first.n_bands}, "
                f"{file.name} has {file.n_bands}: leave one of them out"
            )
        if file.layers.dtype != first.layers.dtype:
            raise RasterError(
                f"the files of one scene must hold values of one type; {first.name} holds {first.layers.dtype}, "
                f"{file.name} {file.layers.dtype}: bring them to one type and range first (gdal_translate -ot -scale)"
            )
        if not np.array_equal(_scales(file), _scales(first)):
            raise RasterError(
                f"the files of one scene must have the same scale and offset; {first.name} and {file.name} differ: "
                "apply them first (gdal_translate -unscale)"
            )
    return files


def _scales(file: Header) -> np.ndarray:
    return np.zeros((0, 2)) if file.layers.scaled is None else file.layers.scaled


def _choose_frame(files: Sequence[Header]) -> Grid:
    """Return the grid that the mosaic's pixels lie on: that of the finest file in the most frequent CRS.

    Raises:
        RasterError: if only some have a CRS, or files that are not upright do not lie on one grid.
    """
    placed = [file for file in files if file.grid.crs is not None]
    if placed and len(placed) < len(files):
        without = next(file for file in files if file.grid.crs is None)
        raise RasterError(
            f"{without.name} has no coordinate reference system, and {placed[0].name} has; "
            "assign one to all of them (gdal_edit.py -a_srs EPSG:...)"
        )
    crs, _ = Counter(file.grid.crs for file in files).most_common(1)[0]
    of_most = [file.grid for file in files if file.grid.crs == crs]
    frame = min(of_most, key=lambda grid: (not _is_upright(grid), abs(_linear(grid).determinant)))
    for file in files:
        if not (_is_upright(file.grid) and _is_upright(frame)) and not _is_parallel(file.grid, frame):
            raise RasterError(
                f"{file.name} is rotated or south-up, and does not lie on one grid of pixels with {frame.name}; "
                "bring it upright first (gdalwarp)"
            )
    return frame


def _linear(grid: Grid) -> Affine:
    t = grid.known_transform
    return Affine(t.a, t.b, 0, t.d, t.e, 0)


def _is_upright(grid: Grid) -> bool:
    linear = _linear(grid)
    return linear.b == 0 == linear.d and linear.a > 0 > linear.e


def _is_parallel(grid: Grid, frame: Grid) -> bool:
    """Return whether CRS, pixel size and direction agree, to a hundredth of a pixel over the whole grid."""
    off = (~_linear(frame)) @ _linear(grid)
    far = _ALIGNED / max(grid.shape)
    return grid.crs == frame.crs and max(abs(off.a - 1), abs(off.b), abs(off.d), abs(off.e - 1)) < far


def _lay_out(files: Sequence[Header], frame: Grid, name: str) -> tuple[Grid, np.ndarray]:
    """Return the smallest grid that holds all files, and the outline of each in its pixels; warn of copies."""
    outlines = np.array([shapely.transform(_outline(file, frame), frame.to_pixel) for file in files], object)
    low_x, low_y, high_x, high_y = shapely.total_bounds(outlines)
    x1, y1 = math.floor(low_x + _ALIGNED), math.floor(low_y + _ALIGNED)
    x2, y2 = math.ceil(high_x - _ALIGNED), math.ceil(high_y - _ALIGNED)
    if max(x2 - x1, y2 - y1) > _MOST_PIXELS:
        centres = shapely.get_coordinates(shapely.centroid(outlines))
        far = files[int(np.hypot(*(centres - np.median(centres, axis=0)).T).argmax())]
        raise RasterError(
            f"{name} spans {x2 - x1:,} x {y2 - y1:,} px, and GDAL knows no more than {_MOST_PIXELS:,} along a side; "
            f"{far.name} lies farthest from the others: leave it out, or work on the files in groups"
        )
    place = frame.known_transform @ Affine.translation(x1, y1)
    outlines = shapely.transform(outlines, lambda xy: xy - [x1, y1])
    a, b = shapely.STRtree(outlines).query(outlines)
    a, b = a[a < b], b[a < b]
    areas, shared = shapely.area(outlines), shapely.area(shapely.intersection(outlines[a], outlines[b]))
    over = np.flatnonzero(shared > _SAME_GROUND * np.minimum(areas[a], areas[b]))
    if len(over):
        below, above = files[a[over[0]]].name, files[b[over[0]]].name
        more = f", as do {len(over) - 1:,} other pairs of files" if len(over) > 1 else ""
        warn(
            f"{below} and {above} show the same ground{more}: only the later file counts there, here {above}; "
            "leave one out, or list the files in the order that you want"
        )
    return Grid((y2 - y1, x2 - x1), place, frame.crs, name), outlines


def _outline(file: Header, frame: Grid) -> shapely.Polygon:
    """Return the outline of a file in map coordinates of the frame; in another CRS the bounds that GDAL warps it to.

    Raises:
        RasterError: if it cannot be warped there; GDAL would leave a hole without an error.
    """
    if file.grid.crs == frame.crs:
        return shapely.Polygon(file.grid.corners)
    problem = (
        f"{file.name} lies beyond the coordinate reference system of {frame.name}, or of its own, or across their "
        "edge; leave it out, or bring all files to another one first (gdalwarp -t_srs)"
    )
    with environment(file.location):
        try:
            with file.location.open() as dataset, WarpedVRT(dataset, crs=_rasterio_crs(frame)) as warped:
                outline, shape = shapely.box(*warped.bounds), warped.shape
                pixel = math.sqrt(abs(warped.transform.determinant))
        except FAILURES as error:
            raise RasterError(problem) from harmless(error)
        across = pixel / math.sqrt(abs(_linear(frame).determinant)) * frame.pixel_size_m
        # Coordinates far outside a CRS come back somewhere else, where GDAL would then look for pixels.
        own, other, corners = _rasterio_crs(file.grid), _rasterio_crs(frame), file.grid.corners
        moved = np.column_stack(transform(other, own, *transform(own, other, *corners.T))) - corners
        if own.is_geographic:
            moved[:, 0] = (moved[:, 0] + 180) % 360 - 180  # 181 and -179 are one meridian
        is_back = np.hypot(*moved.T).max() < max(file.grid.shape) * math.sqrt(abs(_linear(file.grid).determinant))
        if not all(shape) or across > _TORN * max(file.grid.pixel_sides_m) or not is_back:
            raise RasterError(problem)
    return outline


def _rasterio_crs(grid: Grid) -> Any:
    assert grid.crs is not None
    return rasterio.crs.CRS.from_wkt(grid.crs.to_wkt())
