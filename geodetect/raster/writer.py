"""Chips as GeoTIFFs that say where they lie."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Bool, Shaped
from rasterio.errors import NotGeoreferencedWarning

from geodetect.errors import OutputError
from geodetect.grid import Grid
from geodetect.raster.opening import FAILURES, first_line


def write_chip(
    path: str | Path,
    pixels: Shaped[np.ndarray, "C H W"],
    grid: Grid,
    valid: Bool[np.ndarray, "H W"] | None = None,
) -> Path:
    """A GeoTIFF of these pixels, complete under its name or not there at all.

    Args:
        path: file to write; one that exists is replaced.
        pixels: of any dtype that GeoTIFF holds, which is kept.
        grid: where they lie.
        valid: which hold data; None for all. It is written, as a mask, only where some do not.

    Returns:
        `path`.

    Raises:
        OutputError: if it cannot be written.
    """
    path = Path(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            part = Path(folder) / path.name
            # Inside the file, so that one file is all that a chip is.
            with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(part, "w", **_profile(pixels, grid)) as target:
                    target.write(pixels)
                    if valid is not None and not valid.all():
                        target.write_mask(valid)
            os.replace(part, path)
    except (OSError, *FAILURES) as error:
        raise OutputError(f"{path} cannot be written: {first_line(error)}") from error
    return path


def _profile(pixels: np.ndarray, grid: Grid) -> dict[str, Any]:
    """How rasterio is to write these pixels."""
    n_bands, height, width = pixels.shape
    coloured = n_bands in (3, 4) and pixels.dtype in (np.uint8, np.uint16)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": n_bands,
        "height": height,
        "width": width,
        "dtype": pixels.dtype.name,
        "compress": "deflate",
        "photometric": "RGB" if coloured else "MINISBLACK",
        "alpha": "NO",  # else GDAL tags the fourth band as alpha, and the next reader takes it for a mask
    }
    if grid.transform is not None:
        profile["transform"] = grid.transform
    if grid.crs is not None:
        profile["crs"] = rasterio.crs.CRS.from_wkt(grid.crs.to_wkt())
    return profile
