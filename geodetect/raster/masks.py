"""Which values of an alpha band, a mask and the data mean that a pixel is valid.

GDAL's own rule (0 is invalid, anything else is valid) takes near infrared that is tagged as alpha for a mask, and the
noise of lossy compression for valid pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Compression
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as FileWindow

from geodetect.errors import ArgumentError, RasterError
from geodetect.grid import Window

MaskThreshold: TypeAlias = float
"""The lowest value of a mask that makes a pixel valid."""

ANY = float(np.finfo(np.float32).tiny)  # as a threshold: every value above 0
_HALF_OF_BYTE = 128.0
_PLACES = 8  # along each axis, where an alpha band is sampled
_SIDE = 64  # px; of each place
_ALMOST_ALL = 0.99  # of the pixels are transparent or opaque; warped edges have some in between
_MOST_OPAQUE = 0.9  # of those that are not transparent hold one value: a mask has one, near infrared has many
_WARPED = {"uint16": 65535, "int16": 32767}  # what GDAL writes where it warps, 255 for any other type
_LOSSY = {Compression.jpeg, Compression.webp}
_ROUNDED = 1e-3  # the lowest float32 is -3.4028235e38, and is often written as -3.4e38
_NOISE = 16  # how far lossy compression moves a byte that was 0 or 255


def find_alpha(dataset: Any) -> int | None:
    """Return the band that is tagged as alpha; None if there is none beside the data."""
    kinds = zip(dataset.indexes, dataset.colorinterp, strict=True)
    tagged = [band for band, kind in kinds if kind == ColorInterp.alpha]
    return tagged[-1] if tagged and dataset.count > 1 else None


def find_alpha_threshold(dataset: Any, band: int) -> MaskThreshold | None:
    """Return the lowest opaque value of a band that is tagged as alpha, from a sample; None if it is not a mask.

    A mask holds 0 and one other value nearly everywhere, in any type: 1, 255, 2047 or 65535. Some programs tag
    near infrared as alpha.
    """
    if isinstance(dataset, WarpedVRT):  # we added the band ourselves
        return _WARPED.get(dataset.dtypes[band - 1], 255) / 2
    places = Window(0, 0, dataset.width, dataset.height).spread(_PLACES, _SIDE)
    windows = [FileWindow(place.x, place.y, place.width, place.height) for place in places]
    values = np.concatenate([dataset.read(band, window=window).ravel() for window in windows])
    if values.dtype == np.uint8 and dataset.compression in _LOSSY:
        values[values < _NOISE] = 0
        values[values > np.iinfo(np.uint8).max - _NOISE] = np.iinfo(np.uint8).max
    shown = values[values != 0]
    if not shown.size:
        return ANY
    found, counts = np.unique(shown, return_counts=True)
    n_opaque, opaque = int(counts.max()), float(found[counts.argmax()])
    between = shown.size - n_opaque
    is_mask = opaque > 0 and n_opaque >= _MOST_OPAQUE * shown.size and between <= (1 - _ALMOST_ALL) * values.size
    return opaque / 2 if is_mask else None


def find_mask_threshold(dataset: Any, name: str) -> MaskThreshold:
    """Return the lowest valid value of a dataset's mask.

    Raises:
        RasterError: if the mask is in a separate file of another size.
    """
    beside = f"{dataset.name}.msk"
    if beside not in dataset.files:
        return ANY
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # its place is that of the raster
        with rasterio.open(beside) as mask:
            if mask.shape != dataset.shape:
                (height, width), (mask_height, mask_width) = dataset.shape, mask.shape
                raise RasterError(
                    f"the mask of {name}, {beside}, must have its size, {width} x {height} px; got {mask_width} x "
                    f"{mask_height} px; remove the mask, or write it anew for this raster"
                )
            return _HALF_OF_BYTE if mask.compression in _LOSSY else ANY


def is_sparse(dataset: Any, window: Window, bands: Sequence[int]) -> bool:
    """Return whether a GeoTIFF stores none of the blocks that a window intersects; GDAL reads them as no data, or 0."""
    if dataset.driver != "GTiff":
        return False
    height, width = dataset.block_shapes[0]
    x1, y1, x2, y2 = window.xyxy
    rows, columns = range(y1 // height, -(-y2 // height)), range(x1 // width, -(-x2 // width))
    offsets = (
        dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band)
        for row in rows
        for column in columns
        for band in bands
    )
    return all(offset is None for offset in offsets)


def check_nodata(nodata: object) -> None:
    """Raise if a no-data value is neither a number nor None.

    Raises:
        ArgumentError: naming what was given.
    """
    if nodata is not None and (isinstance(nodata, bool) or not isinstance(nodata, Real)):
        raise ArgumentError(f"nodata must be a number, such as -9999; got {nodata!r}")


def convert_nodata(nodata: float, dtype: np.dtype[Any], name: str) -> float:
    """Return a no-data value as pixels of this type hold it; -3.4e38 is the lowest float32.

    Raises:
        RasterError: if such pixels cannot hold it.
    """
    value = float(nodata)
    if dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        return math.copysign(limit, value) if abs(abs(value) / limit - 1) < _ROUNDED else value
    limits = np.iinfo(dtype)
    if not (value.is_integer() and limits.min <= value <= limits.max):
        raise RasterError(
            f"nodata must be a value that {name} can hold, a whole number from {limits.min} to {limits.max} "
            f"({dtype}); got nodata={value:g}"
        )
    return value
