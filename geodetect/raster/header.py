"""What the header of a file says, before any pixel is read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from geodetect.errors import RasterError
from geodetect.grid import Grid
from geodetect.progress import Bar
from geodetect.raster.layers import Layers, warn_of_scales
from geodetect.raster.masks import Least, alpha_tag, least_opaque
from geodetect.raster.opening import gdal_name, grid_of, overviews, understood

_N_THREADS = 8  # headers are read by so many at once: on a network they only wait
_MANY = 100  # files whose headers take a second or more
_CAPITALS = {"uint": "UInt", "int": "Int", "float": "Float"}
_SIZES = {"uint": (16, 32, 64), "int": (8, 16, 32, 64), "float": (32, 64)}
# numpy's names of numbers, and GDAL's.
TYPES = {"uint8": "Byte"} | {f"{kind}{n}": f"{_CAPITALS[kind]}{n}" for kind, sizes in _SIZES.items() for n in sizes}


@dataclass(frozen=True, eq=False)
class File:
    """What is known of one of many files before any pixel is read.

    Args:
        path: what GDAL opens.
        name: what messages call it.
        grid: where it lies.
        layers: its bands; an alpha band that is a mask among them.
        nodata: for each band the value that stands for no data; None when there is none.
        tagged: the band that is tagged as alpha, mask or not; None when there is none.
        factors: by how much its overviews are coarser.
        block: (height, width) of its blocks.
    """

    path: str
    name: str
    grid: Grid
    layers: Layers
    nodata: tuple[float | None, ...]
    tagged: int | None
    factors: tuple[int, ...]
    block: tuple[int, int]

    @property
    def n_bands(self) -> int:
        """Number of bands that are data."""
        return len(self.layers.data)

    def least_opaque(self) -> Least | None:
        """Lowest opaque value of the band that is tagged as alpha; None when there is none, or it is not a mask.

        A few blocks of it are read.
        """
        if self.tagged is None:
            return None
        with understood(self.name, self.path), rasterio.open(self.path) as dataset:
            return least_opaque(dataset, self.tagged)

    def masked(self, least: Least | None) -> File:
        """The file with its band that is tagged as alpha as a mask; itself where there is none, or `least` is None."""
        if self.tagged is None or least is None:
            return self
        return replace(self, layers=self.layers.with_alpha(self.tagged, least))


def headers_of(files: Sequence[tuple[str, str]], nodata: float | None = None, *, progress: bool = False) -> list[File]:
    """What the headers of all files say, a band tagged as alpha taken for data.

    Args:
        files: the path or URL of each, and what messages call it.
        nodata: value that stands for no data besides those that the files declare.
        progress: show a bar where there are many.

    Raises:
        RasterError: if one cannot be read, or does not say where it lies.
    """
    headers: list[File] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(_N_THREADS, thread_name_prefix="geodetect-headers") as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # such files are refused in our own words
        with Bar("files", len(files), shown=progress and len(files) > _MANY) as bar:
            for header in pool.map(partial(_header, nodata), files):
                headers.append(header)
                bar.advance()
    warn_of_scales((header.name, header.layers) for header in headers)
    return headers


def _header(nodata: float | None, file: tuple[str, str]) -> File:
    path, name = file
    with understood(name, path), rasterio.open(gdal_name(path)) as dataset:
        grid, layers = grid_of(dataset, name), Layers.without_alpha(dataset, name, nodata)
        if grid.transform is None or dataset.transform.is_identity:
            raise RasterError(
                f"{name} has no transform of its own, so its place beside the other files is unknown; "
                "give it one (gdal_translate -a_srs EPSG:... -a_ullr ..., or gdalwarp where it has control points)"
            )
        if layers.stored.name not in TYPES:
            raise RasterError(f"{name} holds {layers.stored} values, which a scene of many files cannot; convert it")
        values = tuple(layers.undeclared if value is None else value for value in dataset.nodatavals)
        factors = tuple(overviews(dataset))
        block = dataset.block_shapes[0]
        return File(gdal_name(path), name, grid, layers, values, alpha_tag(dataset), factors, block)
