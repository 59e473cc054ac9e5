"""How good a detector is on chips, in numbers and in pictures."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from geodetect import memory, plots
from geodetect.anchors import AnchorSpec
from geodetect.boxes import Boxes
from geodetect.chips.anchor_fit import REACHED, best_iou
from geodetect.chips.chip import Chips
from geodetect.chips.data import DetectionData
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, ModelError
from geodetect.grid import Grid
from geodetect.learner.callbacks import chip_ap
from geodetect.metadata import LOWEST_SCORE, Metadata
from geodetect.metrics import coco_scores
from geodetect.scene import DetectsPixels
from geodetect.scene.features import features_of
from geodetect.scene.models import lowest_scores
from geodetect.scene.numbers import warn_of_numbers
from geodetect.stretch import Sample

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.figure import Figure

_BATCH = 8  # chips looked at together


class DetectsChips(DetectsPixels, Protocol):
    """A detector that is told from which score on, and up to which overlap, boxes count, and says what it is for."""

    metadata: Metadata

    def detect(self, pixels: Any, /, *, min_score: float = ..., nms_iou: float = ...) -> list[Boxes]:
        """The boxes found in each chip of (B, C, H, W), in pixels of the chip."""


def detect_chips(
    detector: DetectsChips, chips: Chips, *, nms_iou: float = 0.5, batch_size: int = _BATCH
) -> tuple[list[Boxes], list[Boxes]]:
    """Detections and true boxes of each chip; neighbours of one size go through the network together."""
    found: list[Boxes] = []
    truth: list[Boxes] = []
    for _, alike in groupby(chips, key=lambda chip: chip.pixels.shape):
        while batch := list(islice(alike, batch_size)):
            pixels = np.stack([chip.pixels for chip in batch])
            found += detector.detect(pixels, min_score=LOWEST_SCORE, nms_iou=nms_iou)
            truth += [chip.boxes for chip in batch]
    return found, truth


def average_precision(detector: Detector, chips: Chips, match_iou: float) -> dict[str, float]:
    """Average precision of each class, 0 to 1; NaN for a class without an object."""
    scores = chip_ap(*detect_chips(detector, chips), len(detector.classes), match_iou)
    return dict(zip(detector.classes, scores.tolist(), strict=True))


def evaluate(detector: Detector, chips: Chips) -> pd.DataFrame:
    """COCO's scores of each class, and their means over the classes that have an object as `all`."""
    scores = coco_scores(*detect_chips(detector, chips), len(detector.classes))
    table = pd.DataFrame(scores, index=detector.classes)
    return pd.concat([table, table.mean().to_frame("all").T])


def predict(detector: Detector, image: np.ndarray, min_score: Any, nms_iou: float) -> GeoDataFrame:
    """What is found in an array (C, H, W), which is looked at in one piece.

    Args:
        detector: what looks at it.
        image: pixels as the detector's rasters have them.
        min_score: detections below are left out, for all classes or by name; None: the detector's own.
        nms_iou: overlap above which the worse of two boxes of a class is dropped.

    Raises:
        ArgumentError: if it is no such array, or a threshold is not between 0 and 1.
        ModelError: if memory does not suffice.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3:  # noqa: PLR2004
        got = f"shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ArgumentError(f"image must be the path of a raster, or an array (C, H, W); got {got}")
    if isinstance(image, np.ma.MaskedArray):
        image = np.where(np.ma.getmaskarray(image), np.nan, image.data)  # which counts as the mean
    detector.warn_if_untrained()
    lowest = dict(zip(detector.classes, lowest_scores(min_score, detector), strict=True))
    try:
        (found,) = detector.detect(image[None], min_score=lowest, nms_iou=nms_iou)
    except (MemoryError, RuntimeError) as error:
        if not memory.is_short(error):
            raise
        height, width = image.shape[1:]
        raise ModelError(
            f"there is not enough memory to look at {width:,} x {height:,} px in one piece; give the path of a raster, "
            "which is looked at in windows"
        ) from error
    warn_of_numbers(Sample([(image, np.ones(image.shape[1:], bool))]), detector, "the image")
    return features_of(found, Grid(image.shape[1:]), detector.classes)


def unreached(data: DetectionData, spec: AnchorSpec) -> float:
    """Share of the training objects that no anchor overlaps by 0.5, 0 to 1."""
    best = [best_iou(plan.boxes.xyxy, (plan.window.height, plan.window.width), spec) for plan in data.train.plans]
    return float((np.concatenate(best) < REACHED).mean())


def summary(history: dict[str, Any], epochs: int, kept: int) -> dict[str, Any]:
    """What a saved detector tells of its training: how long it was, and what the weights that it holds came to.

    Args:
        history: of the last training, epoch by epoch.
        epochs: that were trained in all.
        kept: number of the last training's epoch, from 0, that the weights are of.
    """
    found = {"valid_loss": float(history["valid"][kept]), "AP50": float(history["ap50"][kept])}
    return {"epochs": epochs} | {name: value if np.isfinite(value) else None for name, value in found.items()}


def show_results(detector: Detector, chips: Chips, rows: int, min_score: float | None) -> Figure:
    """A row for each of the first chips with an object: true boxes to the left, detections to the right."""
    plots.check_rows(rows)
    plans = [plan for plan in chips.plans if len(plan.boxes)][:rows]
    names = np.array(detector.classes, dtype=object)
    limit = detector.min_score if min_score is None else min_score
    pictures = list(Chips(plans))
    found = [detector.detect(chip.pixels[None], min_score=limit)[0] for chip in pictures]
    return plots.chip_figure(
        [chip.pixels for chip in pictures],
        [chip.boxes.xyxy for chip in pictures],
        [names[chip.boxes.labels] for chip in pictures],
        classes=detector.classes,
        found=[(boxes.xyxy, names[boxes.labels], np.asarray(boxes.scores)) for boxes in found],
    )


def show(figure: Figure) -> None:
    """Display a figure where there is a notebook to display it in."""
    try:
        from IPython.display import display
    except ImportError:
        return
    display(figure)  # type: ignore[no-untyped-call]
