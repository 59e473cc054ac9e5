"""The images of a folder with labels: read upright, and cut into chips."""

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
from geodetect.chips.cut import MIN_SIDE, Cutting, PixelLabels, draw_negatives, plan_chips
from geodetect.chips.formats.image import Image, count, join_notes
from geodetect.chips.sources import Source, check_alike, drop_unused, note_pixel_sizes
from geodetect.errors import LabelsError
from geodetect.grid import Window
from geodetect.raster import UPRIGHT, RasterReader, Reader, ReaderPool, TurnedReader, upright_shape
from geodetect.vector.geometry import number_outlines

_LEAST_SIDE = MIN_SIDE - 0.0101  # px; labels are written in hundredths, and each corner is off by up to half of one
# Roboflow's name of the augmented copies of an image: `IMG_7_jpg.rf.1c9a7d0e5b3f4a2e8d6c1b0a9f8e7d6c.jpg`.
_COPY = re.compile(r"(.+)\.rf\.[0-9a-zA-Z]+$")
_DECIMALS = 6  # of a pixel; boxes that differ by less are duplicates
_FLAT, _DUPLICATE, _OUTSIDE = "boxes without an area", "duplicate boxes", "boxes outside their image"  # counted as lost


class ImageReader:
    """An image as viewers show it, opened for each read, so that a folder of thousands keeps no file open.

    The orientation in its tags is applied, unless the size in the labels only fits the stored image: some
    labelling programs ignore the tag.

    Args:
        path: the image.
        bands: those to read, counted from 1 or by name; None for all.
        pixel_size_m: read at this ground resolution instead of its own.
        crs: of an image that has a transform and does not name its CRS.
        labelled_shape: (height, width) in the labels; None if unknown.
        nodata: value that stands for no data besides those that the image declares.
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
        self.n_bands, self.bands, self.dtype = raster.n_bands, raster.bands, raster.dtype
        self.all_valid = raster.all_valid

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read pixels (C, H, W) and valid (H, W) of a window of the grid."""
        return self._reader.read(window)

    def close(self) -> None:
        """Do nothing: no file is open between reads."""


def is_resized(shape: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two shapes (height, width) have the same aspect ratio, to a pixel."""
    scales = shape[0] / other[0], shape[1] / other[1]
    return abs(other[0] * scales[1] - shape[0]) <= 1 and abs(other[1] * scales[0] - shape[1]) <= 1


class ImageCutter:
    """Cutter of the images of one folder into chips, which counts dropped images and boxes.

    Args:
        images: training and validation images.
        crs: of images that have a transform and do not name their CRS.
        cutting: how images become chips.
        rename: new name of each class; None for one that is dropped.

    Raises:
        RasterError: if images with labels differ in bands or dtype.
        LabelsError: if an image has another shape than the one that was labelled.
    """

    def __init__(
        self, images: Sequence[Image], crs: CRS | None, cutting: Cutting, rename: Mapping[str, str | None]
    ) -> None:
        self._crs, self._cutting, self._rename = crs, replace(cutting, min_side=_LEAST_SIDE), rename
        self.classes = list(dict.fromkeys(name for name in rename.values() if name is not None))
        self._lost: Counter[str] = Counter()
        self._fates = [np.zeros(0, int)]
        readers = [self._open(each) for each in images]
        _check_shapes(images, readers)
        labelled = [reader for each, reader in zip(images, readers, strict=True) if each.labelled]
        check_alike(labelled, "images")
        first = (labelled or readers)[0]
        self._bands, self._kind = first.bands, _kind(first)
        self._used = {reader.path: reader for reader in readers if _kind(reader) == self._kind}
        n_strange = len(readers) - len(self._used)
        self._lost["images without labels that have other bands than those with, left out"] = n_strange
        self._side = cutting.choose_side([reader.grid.shape for reader in self._used.values()])
        self._cutting = replace(self._cutting, chip_size=self._side)
        named = {path: match[1] for path in self._used if (match := _COPY.match(path.stem))}
        several = Counter(named.values())
        self._originals = {path: name for path, name in named.items() if several[name] > 1}

    def _open(self, image: Image) -> ImageReader:
        return ImageReader(
            image.path,
            bands=self._cutting.bands,
            pixel_size_m=self._cutting.pixel_size_m,
            crs=self._crs,
            labelled_shape=image.shape,
            nodata=self._cutting.nodata,
        )

    def plan(self, images: Sequence[Image]) -> list[ChipPlan]:
        """Plan the chips of some images, with or without boxes; images of another kind are skipped."""
        plans: list[ChipPlan] = []
        for image in images:
            reader = self._used.get(image.path) or self._open(image)
            if _kind(reader) == self._kind:
                find, within = (self._outlines, reader.grid.shape) if self._cutting.oriented else (self._boxes, None)
                made, fates = plan_chips(reader, find(image, reader), self._cutting, within=within)
                plans += [replace(plan, original=self._originals.get(image.path)) for plan in made]
                self._fates.append(fates)
        return plans

    def _relabel(self, image: Image) -> np.ndarray:
        """The new label of each box of an image; -1 for one that is dropped."""
        names = [self._rename[name] for name in image.names]
        labels = np.array([-1 if name is None else self.classes.index(name) for name in names], int)
        self._lost["boxes of classes that class_mapping drops"] += int((labels < 0).sum())
        return labels

    def _frame(self, image: Image, reader: ImageReader) -> tuple[int, int]:
        """The (height, width) that the coordinates of an image's labels are of."""
        frame = image.shape or reader.source_shape
        self._lost["images resized since they were labelled, their boxes too"] += frame != reader.source_shape
        return frame

    def _outlines(self, image: Image, reader: ImageReader) -> PixelLabels:
        """The usable outlines of an image, in the pixels that are read; others count as lost."""
        labels, frame = self._relabel(image), self._frame(image, reader)
        (height, width), scale = reader.grid.shape, np.divide(reader.grid.shape, frame)[::-1]
        polygons = image.polygons(frame)
        solid = ~shapely.is_missing(polygons)
        self._lost[_FLAT] += int((~solid & (labels >= 0)).sum())
        kept = np.flatnonzero(solid & (labels >= 0))
        polygons, labels = shapely.transform(polygons[kept], lambda xy: xy * scale), labels[kept]
        rows = np.column_stack([labels, number_outlines(polygons)])
        first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        self._lost[_DUPLICATE] += len(polygons) - len(first)
        polygons, labels, kept = polygons[first], labels[first], kept[first]
        inside = shapely.area(shapely.intersection(polygons, shapely.box(0, 0, width, height)))
        good = inside >= np.maximum(self._cutting.min_visible * shapely.area(polygons), np.finfo(float).tiny)
        self._lost[_OUTSIDE] += int((~good).sum())
        ignored = None if image.ignored is None else image.ignored[kept[good]]
        return PixelLabels(polygons[good], labels[good], ignored)

    def _boxes(self, image: Image, reader: ImageReader) -> PixelLabels:
        """The usable boxes of an image, in the pixels that are read; others count as lost."""
        labels, frame = self._relabel(image), self._frame(image, reader)
        (height, width), scale = reader.grid.shape, np.divide(reader.grid.shape, frame)[::-1]
        boxes = Boxes(image.in_pixels(frame) * np.tile(scale, 2), labels, ignored=image.ignored)[labels >= 0]
        rows = np.column_stack([boxes.labels, boxes.xyxy.round(_DECIMALS)])
        _, first = np.unique(rows, axis=0, return_index=True)
        self._lost[_DUPLICATE] += len(boxes) - len(first)
        boxes = boxes[np.sort(first)]
        whole, inside = area(boxes.xyxy), boxes.clip(width, height)
        least = np.maximum(self._cutting.min_visible * whole, np.finfo(float).tiny)
        faults = {
            _FLAT: ~(whole > 0),  # NaN coordinates too
            _OUTSIDE: area(inside.xyxy) < least,
            f"boxes under {MIN_SIDE:g} px": ~(inside.sizes >= _LEAST_SIDE).all(axis=1),
        }
        good = np.ones(len(boxes), bool)
        for fault, has in faults.items():
            self._lost[fault] += int((good & has).sum())
            good &= ~has
        boxes = boxes[good]
        return PixelLabels(shapely.box(*boxes.xyxy.T), boxes.labels, boxes.ignored)

    def source(self, plans: Sequence[ChipPlan], name: str) -> Source:
        """Return chips with what all of them share; of those without a box as many as are asked for.

        Args:
            plans: chips of some images.
            name: of these images in a report.
        """
        kept, classes, dropped = drop_unused(draw_negatives(plans, self._cutting) or list(plans), self.classes)
        n_boxes, n_bare = sum(len(plan.boxes) for plan in kept), len(plans) - len(kept)
        report = join_notes(
            f"{len(kept):,} chips with {n_boxes:,} boxes from {name}",
            count(n_bare, f"chips without an object beyond negatives={self._cutting.negatives:g}, left out"),
            dropped,
        )
        return Source(kept, classes, self._side, self._bands, self._kind[1], report)

    @property
    def report(self) -> str:
        """Summary of what was dropped from the images or changed in them."""
        turned = sum(reader.orientation != UPRIGHT for reader in self._used.values())
        return join_notes(
            *(count(n, what) for what, n in self._lost.items()),
            self._cutting.report_lost(np.concatenate(self._fates)),
            count(turned, "images rotated by their Exif orientation"),
            count(len(self._originals), "copies of other images by Roboflow, which a split keeps together"),
            note_pixel_sizes(self._used.values(), self._cutting),
        )


def _kind(reader: ImageReader) -> tuple[int, str]:
    """Number of bands and dtype, which are the same in all images for one network."""
    return reader.n_bands, str(reader.dtype)


def _check_shapes(images: Sequence[Image], readers: Sequence[ImageReader]) -> None:
    """Raise for boxes of images that have been cropped, padded or squeezed since.

    Raises:
        LabelsError: if an image's aspect ratio is not that of its labels.
    """
    other = [
        (image.path, reader.source_shape, image.shape)
        for image, reader in zip(images, readers, strict=True)
        if len(image.names) and image.shape and not is_resized(reader.source_shape, image.shape)
    ]
    if other:
        path, own, labelled = other[0]
        more = f" (so are {len(other) - 1:,} more)" if len(other) > 1 else ""
        raise LabelsError(
            f"{path} has {own[1]} x {own[0]} px and its labels are of an image of {labelled[1]} x {labelled[0]} px, "
            f"which was cropped or squeezed since{more}; use the image that was labelled, or correct the size in the "
            "labels"
        )
