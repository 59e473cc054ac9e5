"""Detections on chips and images: scores, predictions and figures."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from geodetect import memory, plots
from geodetect.boxes import Boxes
from geodetect.chips.chip import Chip, Chips
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, ModelError
from geodetect.grid import Grid
from geodetect.learner.hits import Hits
from geodetect.metadata import CANDIDATE_MIN_SCORE, NMS_IOU, Metadata, Scores
from geodetect.metrics import coco_scores
from geodetect.normalization import Sample
from geodetect.scene import DetectsPixels
from geodetect.scene.features import features_of
from geodetect.scene.models import resolve_min_scores
from geodetect.scene.value_range import warn_of_value_range

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.figure import Figure

_BATCH = 8  # chips


class DetectsChips(DetectsPixels, Protocol):
    """A detector with metadata, whose `detect` takes thresholds."""

    metadata: Metadata

    def detect(self, pixels: Any, /, *, min_score: float = ..., nms_iou: float = ...) -> list[Boxes]:
        """Return the boxes found in each chip of (B, C, H, W), in pixels of the chip."""


def detect_chips(detector: DetectsChips, chips: Chips, *, nms_iou: float = NMS_IOU) -> tuple[list[Boxes], list[Boxes]]:
    """Return detections and true boxes of each chip; neighbours of one size form batches, smaller if memory runs out.

    Raises:
        ModelError: if there is not enough memory for a single chip.
    """
    found: list[Boxes] = []
    truth: list[Boxes] = []
    size = _BATCH
    for (_, height, width), alike in groupby(chips, key=lambda chip: chip.pixels.shape):
        batch: list[Chip] = []
        while batch := batch or list(islice(alike, size)):
            pixels = np.stack([chip.pixels for chip in batch[:size]])
            try:
                found += detector.detect(pixels, min_score=CANDIDATE_MIN_SCORE, nms_iou=nms_iou)
            except (MemoryError, RuntimeError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                if len(pixels) == 1:
                    raise ModelError(
                        f"there is not enough memory for a chip of {width:,} x {height:,} px; prepare smaller chips"
                    ) from error
                size = len(pixels) // 2
            else:
                truth += [chip.boxes for chip in batch[:size]]
                batch = batch[size:]
    return found, truth


def average_precision(detector: Detector, chips: Chips, match_iou: float) -> dict[str, float]:
    """Return the average precision of each class, 0 to 1; NaN for a class without an object."""
    hits = Hits.of(*detect_chips(detector, chips), len(detector.classes), match_iou)
    return dict(zip(detector.classes, hits.average_precision().tolist(), strict=True))


def evaluate(detector: Detector, chips: Chips) -> pd.DataFrame:
    """Return COCO's scores of each class, and as `all` their means over the classes that have an object."""
    scores = coco_scores(*detect_chips(detector, chips), len(detector.classes))
    table = pd.DataFrame(scores, index=detector.classes)
    return pd.concat([table, table.mean().to_frame("all").T])


def predict(detector: Detector, image: np.ndarray, min_score: Scores | None, nms_iou: float) -> GeoDataFrame:
    """Return the detections on an array (C, H, W), which is processed in one piece; masked pixels count as the mean.

    Raises:
        ArgumentError: if it is not such an array, or a threshold is not between 0 and 1.
        ModelError: if memory does not suffice.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3:  # noqa: PLR2004
        got = f"shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ArgumentError(f"image must be the path of a raster, or an array (C, H, W); got {got}")
    if isinstance(image, np.ma.MaskedArray):
        image = np.where(np.ma.getmaskarray(image), np.nan, image.data)  # NaN counts as the mean
    detector.warn_if_untrained()
    lowest = dict(zip(detector.classes, resolve_min_scores(min_score, detector), strict=True))
    try:
        (found,) = detector.detect(image[None], min_score=lowest, nms_iou=nms_iou)
    except (MemoryError, RuntimeError) as error:
        if not memory.is_out_of_memory(error):
            raise
        height, width = image.shape[1:]
        raise ModelError(
            f"there is not enough memory for {width:,} x {height:,} px in one piece; give the path of a raster, "
            "which is processed in windows"
        ) from error
    warn_of_value_range(Sample([(image, np.ones(image.shape[1:], bool))]), detector, "the image")
    return features_of(found, Grid(image.shape[1:]), detector.classes)


def show_results(detector: Detector, chips: Chips, rows: int, min_score: float | None) -> Figure:
    """Draw the first chips with an object, one a row: true boxes to the left, detections to the right."""
    plots.check_rows(rows)
    plans = [plan for plan in chips.plans if len(plan.boxes)][:rows]
    names = np.array(detector.classes, dtype=object)
    limit = detector.min_score if min_score is None else min_score
    shown = list(Chips(plans))
    found = [detector.detect(chip.pixels[None], min_score=limit)[0] for chip in shown]
    return plots.draw_chips(
        [chip.pixels for chip in shown],
        [plots.Marks(list(chip.boxes.corners), list(names[chip.boxes.labels])) for chip in shown],
        classes=detector.classes,
        found=[plots.Marks(list(each.corners), list(names[each.labels]), np.asarray(each.scores)) for each in found],
    )


def display(figure: Figure) -> None:
    """Display a figure in a notebook; elsewhere nothing happens."""
    try:
        from IPython import display as notebook
    except ImportError:
        return
    notebook.display(figure)  # type: ignore[no-untyped-call]
