"""Writing chips: GeoTIFFs, or PNGs and JPEGs with world files."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from jaxtyping import Bool, Shaped
from rasterio.errors import NotGeoreferencedWarning

from geodetect.errors import ArgumentError, OutputError, first_line
from geodetect.grid import Grid
from geodetect.raster.opening import FAILURES

_DRIVERS = {"tif": "GTiff", "png": "PNG", "jpg": "JPEG"}
_DTYPES = {"png": ("uint8", "uint16"), "jpg": ("uint8",)}
_N_BANDS = (1, 3)  # more would be read as a mask, or as ink
_WORLD = {".png": ".pgw", ".jpg": ".jgw"}
_QUALITY = 95  # of JPEGs; the usual 75 blurs objects of a few pixels
CHIP_FORMATS = frozenset(_DRIVERS)


def check_chip_format(chip_format: str, n_bands: int, dtype: str) -> None:
    """Raise if a format cannot hold these pixels.

    Args:
        chip_format: one of `CHIP_FORMATS`.
        n_bands: of the chips.
        dtype: numpy's name of it.

    Raises:
        ArgumentError: if the number of bands or their type is not the format's.
    """
    dtypes = _DTYPES.get(chip_format)
    if dtypes is not None and (n_bands not in _N_BANDS or dtype not in dtypes):
        raise ArgumentError(
            f"{chip_format} chips hold 1 or 3 bands of {' or '.join(dtypes)}; the raster has {n_bands} of "
            f'{dtype}; choose some with bands=, or chip_format="tif", which holds any'
        )


def write_chip(
    path: str | Path,
    pixels: Shaped[np.ndarray, "C H W"],
    grid: Grid,
    valid: Bool[np.ndarray, "H W"] | None = None,
) -> Path:
    """Write pixels as an image that appears under its name when it is complete.

    Safe in threads if the grid has a transform: without one, rasterio's warning is silenced for all threads.

    Args:
        path: file to write; its suffix, `.tif`, `.png` or `.jpg`, is its format. One that exists is replaced.
        pixels: of any dtype that the format holds (`check_chip_format`), which is kept.
        grid: where they lie.
        valid: which are valid; None: all. Written as a mask into GeoTIFFs, if some are not.

    Returns:
        `path`.

    Raises:
        OutputError: if it cannot be written.
    """
    path = Path(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            part = Path(folder) / path.name
            if grid.transform is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)
                    _write(part, pixels, grid, valid)
            else:
                _write(part, pixels, grid, valid)
            for beside in part.parent.iterdir():  # the image last: when it is there, all of it is
                if beside != part:
                    os.replace(beside, path.with_name(beside.name))
            os.replace(part, path)
    except (OSError, *FAILURES) as error:
        raise OutputError(f"{path} cannot be written: {first_line(error)}") from error
    return path


def _write(part: Path, pixels: np.ndarray, grid: Grid, valid: np.ndarray | None) -> None:
    n_bands, height, width = pixels.shape
    profile: dict[str, Any] = {"driver": _DRIVERS[part.suffix[1:]], "count": n_bands, "height": height, "width": width}
    if part.suffix == ".tif":
        coloured = n_bands in (3, 4) and pixels.dtype in (np.uint8, np.uint16)
        # Without "alpha" GDAL tags the fourth band as one, and the next reader takes it for a mask.
        profile |= {"compress": "deflate", "photometric": "RGB" if coloured else "MINISBLACK", "alpha": "NO"}
    elif part.suffix == ".jpg":
        profile["quality"] = _QUALITY
    if grid.transform is not None:
        profile["transform"] = grid.transform
    if grid.crs is not None:
        profile["crs"] = rasterio.crs.CRS.from_wkt(grid.crs.to_wkt())
    # The mask inside the file, so that a GeoTIFF is one file.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with rasterio.open(part, "w", dtype=pixels.dtype.name, **profile) as target:
            target.write(pixels)
            if valid is not None and not valid.all() and part.suffix == ".tif":
                target.write_mask(valid)
    if part.suffix in _WORLD and grid.transform is not None:
        # Columns of the matrix, then the centre of the upper left pixel: https://en.wikipedia.org/wiki/World_file
        place = grid.transform @ Affine.translation(0.5, 0.5)
        world = (place.a, place.d, place.b, place.e, place.c, place.f)
        part.with_suffix(_WORLD[part.suffix]).write_text("".join(f"{value!r}\n" for value in world), encoding="ascii")
