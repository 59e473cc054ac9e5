"""The pictures of a folder of labels: read upright, and cut into chips with the boxes that are of use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from pyproj import CRS

from geodetect.boxes import Boxes, area
from geodetect.chips.chip import ChipPlan
from geodetect.chips.cut import MIN_SIDE, Cutting, in_no_chip, plan_chips, with_negatives
from geodetect.chips.formats import Picture
from geodetect.chips.formats.picture import counted, sentence
from geodetect.chips.sources import Source, check_alike, sizes_apart, used_classes
from geodetect.errors import LabelsError
from geodetect.grid import Window
from geodetect.raster import UPRIGHT, RasterReader, Reader, ReaderPool, TurnedReader, upright_shape

_LEAST_SIDE = MIN_SIDE - 0.0101  # px; labels are written in hundredths, each corner up to half of one off
# The name that Roboflow gives augmented versions of one picture: `IMG_7_jpg.rf.1c9a7d0e5b3f4a2e8d6c1b0a9f8e7d6c.jpg`.
_VERSION = re.compile(r"(.+)\.rf\.[0-9a-zA-Z]+$")
_DECIMALS = 6  # of a pixel; boxes that differ by less are one


class PictureReader:
    """A picture as viewers show it, opened for each read, so that a folder of thousands holds no file open.

    The orientation in its tags is applied, unless the size that the labels give fits the stored picture alone: some
    labelling programs ignore the tag.

    Args:
        path: the picture.
        bands: those to read, counted from 1 or by name; None for all.
        pixel_size_m: read at this ground resolution instead of its own.
        crs: of pictures that have a transform and do not name theirs.
        labelled_shape: (height, width) of the picture that was labelled; None where it is not known.
        nodata: value that stands for no data besides those that the picture declares.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        bands: Sequence[int | str] | None = None,
        pixel_size_m: float | None = None,
        crs: CRS | None = None,
        labelled_shape: tuple[int, int] | None = None,
        nodata: float | None = None,
    ) -> None:
        self.path = Path(path)
        raster = RasterReader(
            self.path, bands=bands, pixel_size_m=pixel_size_m, crs=crs, nodata=nodata, pool=ReaderPool(0)
        )
        self.orientation = raster.orientation
        stored, shown = raster.own_shape, upright_shape(raster.own_shape, self.orientation)
        if labelled_shape and is_resized(stored, labelled_shape) and not is_resized(shown, labelled_shape):
            self.orientation, shown = UPRIGHT, stored
        self.source_shape = shown
        self._reader: Reader = raster if self.orientation == UPRIGHT else TurnedReader(raster, self.orientation)
        self.grid, self.footprints = self._reader.grid, self._reader.footprints
        self.n_bands, self.bands, self.dtype, self.all_valid = (
            raster.n_bands,
            raster.bands,
            raster.dtype,
            raster.all_valid,
        )

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, H, W) and valid (H, W) of a window of the grid."""
        return self._reader.read(window)

    def close(self) -> None:
        """Do nothing: no file is open between reads."""


def is_resized(shape: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one of two pictures (height, width) may be the other at another size: the same aspect, to a pixel."""
    scales = shape[0] / other[0], shape[1] / other[1]
    return abs(other[0] * scales[1] - shape[0]) <= 1 and abs(other[1] * scales[0] - shape[1]) <= 1


class PictureCutter:
    """Cuts the pictures of one folder into chips, and counts what is lost on the way.

    Args:
        pictures: those to train and to validate on.
        crs: of pictures that have a transform and do not name theirs.
        cutting: how pictures become chips.
        rename: what each class is called; None for one that is dropped.

    Raises:
        RasterError: if pictures with labels differ in bands or dtype.
        LabelsError: if a picture has another shape than the one that was labelled.
    """

    def __init__(
        self, pictures: Sequence[Picture], crs: CRS | None, cutting: Cutting, rename: Mapping[str, str | None]
    ) -> None:
        self._crs, self._cutting, self._rename = crs, cutting, rename
        self.classes = list(dict.fromkeys(name for name in rename.values() if name is not None))
        self._lost: Counter[str] = Counter()
        self._fates = [np.zeros(0, int)]
        readers = [self._opened(each) for each in pictures]
        _check_shapes(pictures, readers)
        labelled = [reader for each, reader in zip(pictures, readers, strict=True) if each.labelled] or readers
        check_alike(labelled if any(each.labelled for each in pictures) else [], "pictures")
        self._bands, self._kind = labelled[0].bands, _kind(labelled[0])
        self._used = {reader.path: reader for reader in readers if _kind(reader) == self._kind}
        n_strange = len(readers) - len(self._used)
        self._lost["pictures without labels that have other bands than those with, left out"] = n_strange
        self._side = cutting.side([reader.grid.shape for reader in self._used.values()])
        named = {path: match[1] for path in self._used if (match := _VERSION.match(path.stem))}
        several = Counter(named.values())
        self._originals = {path: name for path, name in named.items() if several[name] > 1}

    def _opened(self, picture: Picture) -> PictureReader:
        return PictureReader(
            picture.path,
            bands=self._cutting.bands,
            pixel_size_m=self._cutting.pixel_size_m,
            crs=self._crs,
            labelled_shape=picture.shape,
            nodata=self._cutting.nodata,
        )

    def plans(self, pictures: Sequence[Picture]) -> list[ChipPlan]:
        """The chips of some pictures, with a box or without; none of a picture of another kind."""
        plans: list[ChipPlan] = []
        for picture in pictures:
            reader = self._used.get(picture.path) or self._opened(picture)
            if _kind(reader) != self._kind:
                continue
            boxes = self._boxes(picture, reader)
            outlines = shapely.box(*boxes.xyxy.T)
            made, fates = plan_chips(
                reader, outlines, boxes.labels, self._cutting, side=self._side, min_side=_LEAST_SIDE
            )
            original = self._originals.get(picture.path)
            plans += made if original is None else [replace(plan, original=original) for plan in made]
            self._fates.append(fates)
        return plans

    def _boxes(self, picture: Picture, reader: PictureReader) -> Boxes:
        """A picture's boxes of use, in the pixels that are read, under the classes' new names; the others are lost."""
        names = [self._rename[name] for name in picture.names]
        labels = np.array([-1 if name is None else self.classes.index(name) for name in names], int)
        self._lost["boxes of classes that class_mapping drops"] += int((labels < 0).sum())
        frame = picture.shape or reader.source_shape
        self._lost["pictures resized since they were labelled, their boxes too"] += frame != reader.source_shape
        (height, width), scale = reader.grid.shape, np.divide(reader.grid.shape, frame)[::-1]
        boxes = _unique(Boxes(picture.in_pixels(frame) * np.tile(scale, 2), labels)[labels >= 0])
        self._lost["boxes that stand in the labels more than once"] += int((labels >= 0).sum()) - len(boxes)
        whole, inside = area(boxes.xyxy), boxes.clip(width, height)
        least = np.maximum(self._cutting.min_visible * whole, np.finfo(float).tiny)
        faults = {
            "boxes without an area": ~(whole > 0),  # coordinates that are no numbers, too
            "boxes outside their picture": area(inside.xyxy) < least,
            f"boxes under {MIN_SIDE:g} px": ~(inside.sizes >= _LEAST_SIDE).all(axis=1),
        }
        good = np.ones(len(boxes), bool)
        for fault, has in faults.items():
            self._lost[fault] += int((good & has).sum())
            good &= ~has
        return boxes[good]

    def source(self, plans: Sequence[ChipPlan], told: str) -> Source:
        """These chips with what all of them share; of those without a box as many as are asked for.

        Args:
            plans: chips of some pictures.
            told: which pictures, for a report.
        """
        kept, classes, dropped = used_classes(with_negatives(plans, self._cutting) or list(plans), self.classes)
        n_boxes, n_bare = sum(len(plan.boxes) for plan in kept), len(plans) - len(kept)
        report = sentence(
            f"{len(kept):,} chips with {n_boxes:,} boxes from {told}",
            counted(n_bare, f"chips without an object beyond negatives={self._cutting.negatives:g}, left out"),
            dropped,
        )
        return Source(kept, classes, self._side, self._bands, self._kind[1], report)

    @property
    def report(self) -> str:
        """What was lost of the pictures, and what was done to them."""
        turned = sum(reader.orientation != UPRIGHT for reader in self._used.values())
        return sentence(
            *(counted(n, what) for what, n in self._lost.items()),
            in_no_chip(np.concatenate(self._fates), self._cutting),
            counted(turned, "pictures turned as the orientation in their Exif says"),
            counted(len(self._originals), "versions of other pictures by Roboflow, which a split keeps together"),
            sizes_apart(list(self._used.values()), self._cutting),
        )


def _kind(reader: PictureReader) -> tuple[int, str]:
    """What pictures that one network sees have in common."""
    return reader.n_bands, str(reader.dtype)


def _unique(boxes: Boxes) -> Boxes:
    """The boxes without those that another is the same as, to a millionth of a pixel."""
    rows = np.column_stack([boxes.labels, boxes.xyxy.round(_DECIMALS)])
    _, first = np.unique(rows, axis=0, return_index=True)
    return boxes[np.sort(first)]


def _check_shapes(pictures: Sequence[Picture], readers: Sequence[PictureReader]) -> None:
    """Refuse boxes of pictures that have since been cut, padded or squeezed.

    Raises:
        LabelsError: if a picture's height and width are not those of its labels, nor of one size of the same shape.
    """
    other = [
        (picture, reader)
        for picture, reader in zip(pictures, readers, strict=True)
        if len(picture.names) and picture.shape and not is_resized(reader.source_shape, picture.shape)
    ]
    if not other:
        return
    picture, reader = other[0]
    assert picture.shape is not None
    more = f" (so are {len(other) - 1:,} more)" if len(other) > 1 else ""
    raise LabelsError(
        f"{picture.path} has {_size(reader.source_shape)} px and its labels are of a picture of "
        f"{_size(picture.shape)} px, which was cut or squeezed since{more}; use the picture that was labelled, or "
        "correct the size in the labels"
    )


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]} x {shape[0]}"
