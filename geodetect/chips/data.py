"""What a detector learns from: chips for training and validation, from a raster or from a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from geodetect.boxes import Boxes
from geodetect.chips import split as splits
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.chips.reach import LEVELS, REACHED, AnchorSuggestion, best_iou, suggest
from geodetect.chips.sources import Cutting, Source, from_folder, from_raster
from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced
from geodetect.plots import chip_figure
from geodetect.stretch import Stretch

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.figure import Figure

_SAMPLE = 64  # chips that the stretch is measured on


@dataclass(frozen=True, eq=False)
class DetectionData:
    """Chips with true boxes, split in two, and what a detector must know of them.

    Args:
        classes: names, without a background; `Boxes.labels` index them.
        train: chips to learn from.
        valid: chips to validate on.
        chip_size: side of the largest chip in pixels.
        pixel_size_m: side of a pixel on the ground; None where no raster is georeferenced.
        bands: the raster's bands, counted from 1.
        stretch: mean and standard deviation of each band, from a sample of the training chips.
        dtype: the pixels' numpy dtype.
        left_out: chips on the border of both parts, in neither.
        batch_size: chips in a batch.
        transforms: whether training batches are changed at random.
        num_workers: processes that read; None chooses.
        seed: of the split, and of all that is random in training.
        report: what was read and what was left out, in a line each.
    """

    classes: list[str]
    train: Chips
    valid: Chips
    chip_size: int
    pixel_size_m: float | None
    bands: tuple[int, ...]
    stretch: Stretch
    dtype: str
    left_out: Chips = field(default_factory=lambda: Chips([]))
    batch_size: int = 8
    transforms: bool = True
    num_workers: int | None = None
    seed: int = 42
    report: str = ""

    def __repr__(self) -> str:
        return (
            f"DetectionData({', '.join(self.classes)}: {len(self.train)} chips to train, {len(self.valid)} to "
            f"validate, {len(self.left_out)} left out on the border; {self.chip_size} px)"
        )

    @property
    def plans(self) -> tuple[ChipPlan, ...]:
        """All chips of both parts, unread."""
        return self.train.plans + self.valid.plans

    def describe(self) -> pd.DataFrame:
        """One row per class and `all`, over both parts; sides are those of a square of the box's area.

        Returns:
            columns `chips` (with such an object), `objects`, `median_px`, `median_m`, and `unreached`, the
            share of objects that no default anchor overlaps by 0.5. `attrs` holds the number of chips
            that `train`, that are `valid`, and that were `left_out` on the border of both.
        """
        objects = self._objects()
        rows = {name: _summary(objects[objects["label"] == i]) for i, name in enumerate(self.classes)}
        rows["all"] = _summary(objects) | {"chips": len(self.plans)}
        table = pd.DataFrame.from_dict(rows, orient="index").astype({"chips": int, "objects": int})
        table.attrs = {"train": len(self.train), "valid": len(self.valid), "left_out": len(self.left_out)}
        return table

    def _objects(self) -> pd.DataFrame:
        """A row per box of both parts: its chip, label, side in px and m, and the best default anchor's IoU."""
        frames = [
            pd.DataFrame(
                {
                    "chip": i,
                    "label": plan.boxes.labels,
                    "side": np.sqrt(plan.boxes.sizes.prod(axis=1)),
                    "metres": np.nan if self.pixel_size_m is None else self.pixel_size_m,
                    "best": best_iou(plan.boxes.xyxy, (plan.window.height, plan.window.width)),
                }
            )
            for i, plan in enumerate(self.plans)
        ]
        return pd.concat(frames, ignore_index=True)

    def suggest_anchors(self, levels: Sequence[int] = LEVELS) -> AnchorSuggestion:
        """Base size, scales and ratios that reach most training boxes, with the share reached before and after.

        Args:
            levels: first and last level of the pyramid; (2, 7) has a finer one for objects under 16 px.
        """
        plans = [plan for plan in self.train.plans if len(plan.boxes)]
        return suggest([plan.boxes.xyxy for plan in plans], (self.chip_size, self.chip_size), levels)

    def show_batch(self, rows: int = 3) -> Figure:
        """A figure of training chips with their true boxes.

        Args:
            rows: rows of pictures, at least 1.
        """
        if rows < 1:
            raise ArgumentError(f"rows must be at least 1; got {rows}")
        full = [plan for plan in self.train.plans if len(plan.boxes)]
        chosen = np.random.default_rng(self.seed).permutation(len(full))[: rows * rows]
        chips = [full[i].read() for i in chosen]
        names = np.array(self.classes, dtype=object)
        return chip_figure(
            [chip.pixels for chip in chips],
            [chip.boxes.xyxy for chip in chips],
            [names[chip.boxes.labels] for chip in chips],
            classes=self.classes,
            columns=rows,
        )


def _summary(objects: pd.DataFrame) -> dict[str, float]:
    return {
        "chips": objects["chip"].nunique(),
        "objects": len(objects),
        "median_px": objects["side"].median(),
        "median_m": (objects["side"] * objects["metres"]).median(),
        "unreached": (objects["best"] < REACHED).mean() if len(objects) else np.nan,
    }


def prepare_data(
    source: str | Path,
    labels: str | Path | GeoDataFrame | None = None,
    *,
    class_mapping: Mapping[Any, str | None] | None = None,
    chip_size: int | None = None,
    overlap: int | None = None,
    pixel_size_m: float | None = None,
    bands: Sequence[int] | None = None,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    aoi: str | Path | GeoDataFrame | shapely.Geometry | None = None,
    min_visible: float = 0.3,
    negatives: float = 1.0,
    dataset_type: str | None = None,
    valid_path: str | Path | None = None,
    val_split_pct: float = 0.2,
    split: str = "blocks",
    batch_size: int = 8,
    transforms: bool = True,
    num_workers: int | None = None,
    seed: int = 42,
) -> DetectionData:
    """Chips to train and to validate on, from a raster with labels or from a folder of labelled chips.

    Nothing is written into the user's folders; a raster is read window by window.

    Args:
        source: a raster, or, without `labels`, a folder of chips in COCO format.
        labels: a vector file or GeoDataFrame in any CRS, when `source` is a raster.
        class_mapping: `{value: name}` renames classes; a value mapped to None is dropped.
        chip_size: side of a chip in pixels; None: the pictures' size when they are alike and at most
            1,024 px, else 512.
        overlap: how much neighbouring chips share in pixels; None is 0.
        pixel_size_m: read at this ground resolution instead of the raster's own.
        bands: the bands to read, counted from 1; None is all.
        label_field: column that holds the class; None: a column `label`, else one class named after the file.
        point_radius_m: makes points into discs of this radius in metres.
        aoi: only ground inside is used: a vector file, a GeoDataFrame, or a geometry in the raster's CRS.
        min_visible: smallest share of a label's area in a chip that is still a label there, 0 to 1.
        negatives: chips without an object, as a share of those with one; 0 or more.
        dataset_type: the folder's format; None recognises it. "coco" is known.
        valid_path: a second folder to validate on; `split` and `val_split_pct` are not used then.
        val_split_pct: share of the chips that validates, above 0 and below 1.
        split: "blocks" holds out blocks of ground, "random" single chips, whatever ground they share.
        batch_size: chips in a batch.
        transforms: change training batches at random (symmetries, zoom, light).
        num_workers: processes that read chips; None chooses.
        seed: of everything random here and in training.

    Raises:
        GeodetectError: if a file or a parameter is not usable; the message says which and why.
    """
    _check(split, batch_size)
    cutting = Cutting(chip_size, overlap or 0, pixel_size_m, bands, min_visible, negatives, seed)
    if labels is not None:
        found = from_raster(
            source,
            labels,
            cutting,
            label_field=label_field,
            point_radius_m=point_radius_m,
            class_mapping=class_mapping,
            aoi=aoi,
        )
    else:
        found = from_folder(source, cutting, dataset_type=dataset_type, class_mapping=class_mapping)
    if valid_path is not None:
        held = from_folder(valid_path, cutting, dataset_type=dataset_type, class_mapping=class_mapping)
        parts = [found.plans, _renumbered(held, found.classes), []]
    else:
        parts = _parted(found.plans, val_split_pct, split, seed)
    train, valid, left_out = (Chips(part) for part in parts)
    return DetectionData(
        classes=found.classes,
        train=train,
        valid=valid,
        left_out=left_out,
        chip_size=found.chip_size,
        pixel_size_m=_pixel_size(train),
        bands=found.bands,
        stretch=_measured(train, seed),
        dtype=str(train[0].pixels.dtype),
        batch_size=batch_size,
        transforms=transforms,
        num_workers=num_workers,
        seed=seed,
        report=found.report,
    )


def _check(split: str, batch_size: int) -> None:
    if split not in ("blocks", "random"):
        raise ArgumentError(f'split must be "blocks" or "random"; got {split!r}')
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1; got {batch_size}")


def _parted(plans: list[ChipPlan], share: float, split: str, seed: int) -> list[list[ChipPlan]]:
    """The chips that train, that validate, and that are left out."""
    pictures = np.array([id(plan.reader) for plan in plans])
    footprints = _footprints(plans)
    if split == "random":
        parts = splits.at_random(np.arange(len(plans)), share, seed)
    elif footprints is None:
        parts = splits.at_random(np.unique(pictures, return_inverse=True)[1], share, seed)
    else:
        parts = splits.by_blocks(footprints, share, seed)
    chosen = [[plans[i] for i in part] for part in (parts.train, parts.valid, parts.left_out)]
    if not any(len(plan.boxes) for plan in chosen[0]):
        raise LabelsError(
            "no training chip holds a box; all of them fell to validation: give more ground, "
            "a smaller val_split_pct or another seed"
        )
    return chosen


def _footprints(plans: Sequence[ChipPlan]) -> np.ndarray | None:
    """Bounds of each chip in one plane, (N, 4); None where pictures do not lie in one.

    One raster is a plane of its own, in its pixels; several need one CRS between them.
    """
    if len({id(plan.reader) for plan in plans}) == 1:
        return np.array([plan.window.xyxy for plan in plans], float)
    grids = [plan.grid for plan in plans]
    if any(grid.transform is None or grid.crs is None or grid.crs != grids[0].crs for grid in grids):
        return None
    return np.array([grid.bounds for grid in grids])


def _renumbered(held: Source, classes: list[str]) -> list[ChipPlan]:
    """The chips of a second source with labels that index `classes`; boxes of other classes go."""
    number = np.array([classes.index(name) if name in classes else -1 for name in held.classes])
    moved = [(plan, number[plan.boxes.labels]) for plan in held.plans]
    return [ChipPlan(p.reader, p.window, Boxes(p.boxes.xyxy[n >= 0], n[n >= 0])) for p, n in moved]


def _pixel_size(chips: Chips) -> float | None:
    try:
        return float(np.median([plan.reader.grid.pixel_size_m for plan in chips.plans]))
    except NotGeoreferenced:
        return None


def _measured(chips: Chips, seed: int) -> Stretch:
    """Mean and standard deviation of each band over a sample of the chips."""
    chosen = np.random.default_rng(seed).permutation(len(chips))[:_SAMPLE]
    plans = [chips.plans[i] for i in chosen]
    return Stretch.fit(plan.reader.read(plan.window) for plan in plans)
