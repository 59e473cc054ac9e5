"""Photos that cameras store rotated or mirrored, with a tag that says how to show them.

Orientations are numbered 1 to 8 as in the tag Orientation (274) of TIFF 6.0, which Exif shares.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from affine import Affine
from jaxtyping import Bool, Shaped

from geodetect.grid import Window

if TYPE_CHECKING:
    from geodetect.raster.reader import Reader

UPRIGHT = 1
_TAG, _SHORT = 274, 3  # the tag, and TIFF's number for the type of its value
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # how TIFF begins


class _Turn(NamedTuple):
    """Transform from the stored to the upright image: axes are swapped, then each new axis is mirrored."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False


_TURNS = {
    UPRIGHT: _Turn(),
    2: _Turn(mirrored_x=True),
    3: _Turn(mirrored_x=True, mirrored_y=True),
    4: _Turn(mirrored_y=True),
    5: _Turn(transposed=True),
    6: _Turn(transposed=True, mirrored_x=True),
    7: _Turn(transposed=True, mirrored_x=True, mirrored_y=True),
    8: _Turn(transposed=True, mirrored_y=True),
}


class TurnedReader:
    """An image turned upright, as viewers show it; the transform of its grid is turned with it.

    Args:
        reader: the image as it is stored.
        orientation: 1 to 8.
    """

    footprints: np.ndarray | None = None  # a photo is one file

    def __init__(self, reader: Reader, orientation: int) -> None:
        self._reader, self._turn = reader, _TURNS[orientation]
        self.n_bands, self.dtype, self.all_valid = reader.n_bands, reader.dtype, reader.all_valid
        height, width = upright_shape(reader.grid.shape, orientation)
        mirror = Affine(
            -1 if self._turn.mirrored_x else 1, 0, width if self._turn.mirrored_x else 0,
            0, -1 if self._turn.mirrored_y else 1, height if self._turn.mirrored_y else 0,
        )  # fmt: skip
        self._stored = (Affine(0, 1, 0, 1, 0, 0) if self._turn.transposed else Affine.identity()) @ mirror
        transform = reader.grid.transform and reader.grid.transform @ self._stored
        self.grid = replace(reader.grid, shape=(height, width), transform=transform)

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """Return the pixels of a window of `grid`, and which are valid."""
        ends = [self._stored @ corner for corner in (window.xyxy[:2], window.xyxy[2:])]
        (x1, x2), (y1, y2) = (sorted(int(value) for value in axis) for axis in zip(*ends, strict=True))
        pixels, valid = self._reader.read(Window(x1, y1, x2 - x1, y2 - y1))
        return self._apply(pixels), self._apply(valid)

    def _apply(self, array: np.ndarray) -> np.ndarray:
        array = np.swapaxes(array, -1, -2) if self._turn.transposed else array
        array = array[..., :: -1 if self._turn.mirrored_y else 1, :: -1 if self._turn.mirrored_x else 1]
        return np.ascontiguousarray(array)

    def close(self) -> None:
        """Close the reader of the stored image."""
        self._reader.close()


def upright_shape(shape: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return height and width of an image of this orientation when it is upright."""
    return shape[::-1] if _TURNS[orientation].transposed else shape


def describe_orientation(orientation: int) -> str:
    """Return what to add to a sentence on the pixels of an image that viewers turn; empty if they do not."""
    if orientation == UPRIGHT:
        return ""
    return (
        f"; these are the pixels as they are stored, which viewers turn (Exif orientation {orientation}): to have them "
        "as they are shown, save the image upright first, with PIL.ImageOps.exif_transpose"
    )


def read_orientation(dataset: Any) -> int:
    """Return the orientation of an open raster, 1 to 8; 1 without a valid tag.

    GDAL reads the tag of JPEGs only; that of PNG, WebP and TIFF is read from the file.
    """
    if dataset.driver == "JPEG":
        tag = dataset.tags().get("EXIF_Orientation", "")
        value = int(tag) if tag.isdigit() else UPRIGHT
    elif dataset.driver in ("PNG", "WEBP", "GTiff") and Path(dataset.name).is_file():
        with open(dataset.name, "rb") as file:
            value = _parse_orientation(file, dataset.driver)
    else:
        value = UPRIGHT
    return value if value in _TURNS else UPRIGHT


def _parse_orientation(file: BinaryIO, driver: str) -> int:
    """Return the orientation in a file; 1 if it has none, or ends too early."""
    try:
        start = 0 if driver == "GTiff" else _find_exif(file, is_png=driver == "PNG")
        if start is None:
            return UPRIGHT
        # The tags are laid out as TIFF, from `start` on.
        head = _bytes(file, start, 8)
        order = _ORDERS.get(head[:4])
        if order is None:
            return UPRIGHT
        first = start + struct.unpack(f"{order}4xI", head)[0]
        (n_tags,) = struct.unpack(f"{order}H", _bytes(file, first, 2))
        tags = struct.iter_unpack(f"{order}HHIH2x", _bytes(file, first + 2, 12 * n_tags))
        return next((value for tag, kind, _, value in tags if (tag, kind) == (_TAG, _SHORT)), UPRIGHT)
    except struct.error:
        return UPRIGHT


def _find_exif(file: BinaryIO, *, is_png: bool) -> int | None:
    """Return where the tags of a PNG or WebP begin; None if there are none.

    https://www.w3.org/TR/png-3/#eXIf, https://developers.google.com/speed/webp/docs/riff_container
    """
    place = 8 if is_png else 12
    while True:
        head = struct.unpack(">I4s" if is_png else "<4sI", _bytes(file, place, 8))
        length, kind = head if is_png else head[::-1]
        place += 8
        if kind in (b"eXIf", b"EXIF"):
            return place + (6 if _bytes(file, place, 6) == b"Exif\0\0" else 0)
        if kind == b"IEND":
            return None
        place += length + (4 if is_png else length % 2)


def _bytes(file: BinaryIO, place: int, n_bytes: int) -> bytes:
    file.seek(place)
    return file.read(n_bytes)
