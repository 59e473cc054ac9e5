"""False detections and missed objects of a detector on validation chips, the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geodetect import plots
from geodetect.boxes import Boxes, iou
from geodetect.chips.chip import Chips
from geodetect.detector import Detector
from geodetect.learner.results import detect_chips
from geodetect.metadata import DEFAULT_MIN_SCORE
from geodetect.metrics import match_detections
from geodetect.raster import Reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RIGHT_IOU, _NEAR_IOU = 0.5, 0.1  # from which a detection is right, and from which it is near an object
_SEEN_AROUND, _SMALLEST_VIEW = 3.5, 48  # side of the view round a box: times the box's longer side, and least pixels


class Wrong(NamedTuple):
    """A false detection or a missed object: its chip, its box (one), its class, how bad it is, and why."""

    chip: int
    box: Boxes
    label: int
    badness: float
    reason: str


def show_errors(detector: Detector, chips: Chips, rows: int) -> Figure:
    """Draw the false detections with the highest scores, and the missed objects with the lowest.

    Raises:
        ArgumentError: if `rows` is not from 1 to 100.
    """
    plots.check_rows(rows)
    found, truth = detect_chips(detector, chips)
    false, missed = find_errors(detector, found, truth)
    return plots.draw_errors(
        *(
            [_view(detector, chips, each, truth) for each in _distinct(wrong, chips, 2 * rows)]
            for wrong in (false, missed)
        ),
        classes=detector.classes,
    )


def find_errors(detector: Detector, found: list[Boxes], truth: list[Boxes]) -> tuple[list[Wrong], list[Wrong]]:
    """Return false detections and missed objects at IoU 0.5, the worst first.

    Detections below the detector's `min_score` are not false; the higher the score, the worse. Missed objects are
    the worse the lower the score of the detections on them; those without any detection come first, by size.
    """
    lowest, names = detector.min_score, detector.classes
    by_class = np.array([lowest.get(k, DEFAULT_MIN_SCORE) if isinstance(lowest, Mapping) else lowest for k in names])
    false: list[Wrong] = []
    missed: list[Wrong] = []
    for number, (boxes, true) in enumerate(zip(found, truth, strict=True)):
        counted = boxes[np.asarray(boxes.scores) >= by_class[boxes.labels]]
        partner = match_detections(counted, true, _RIGHT_IOU)[0]
        overlap = iou(counted, true)
        for i in np.flatnonzero(partner < 0):
            label, score = int(counted.labels[i]), float(np.asarray(counted.scores)[i])
            reason = f"{score:.2f}, {_explain(label, overlap[i], true, names)}"
            false.append(Wrong(number, counted[[i]], label, score, reason))
        overlap = iou(true, boxes)
        for j in np.setdiff1d(np.flatnonzero(true.counted), partner):
            near = (overlap[j] >= _RIGHT_IOU) & (boxes.labels == true.labels[j])
            score = float(np.asarray(boxes.scores)[near].max(initial=0.0))
            badness = -score if score else float(np.prod(true.sizes[j]))  # sizes are above 0
            reason = f"only {score:.2f}" if score else "unseen"
            missed.append(Wrong(number, true[[j]], int(true.labels[j]), badness, reason))
    return sorted(false, key=lambda each: -each.badness), sorted(missed, key=lambda each: -each.badness)


def _explain(label: int, overlap: np.ndarray, true: Boxes, classes: Sequence[str]) -> str:
    """Return why a detection is false, from its IoU with each true box."""
    nearest = int(overlap.argmax()) if len(overlap) else -1
    if nearest < 0 or overlap[nearest] < _NEAR_IOU:
        return "nothing there"
    if overlap[nearest] < _RIGHT_IOU:
        return f"IoU {overlap[nearest]:.2f}"
    other = int(true.labels[nearest])
    return "found twice" if other == label else f"is {classes[other]}"


def _distinct(wrong: list[Wrong], chips: Chips, most: int) -> list[Wrong]:
    """Return the first ones, each place once: chips that overlap show the same error."""
    kept: list[Wrong] = []
    places: list[tuple[Reader, Boxes]] = []
    for each in wrong:
        plan = chips.plans[each.chip]
        place = each.box.shift(plan.window.x, plan.window.y)
        near = [box for reader, box in places if reader is plan.reader]
        if len(kept) < most and not any((iou(place, box) >= _RIGHT_IOU).any() for box in near):
            kept.append(each)
            places.append((plan.reader, place))
    return kept


def _view(detector: Detector, chips: Chips, wrong: Wrong, truth: list[Boxes]) -> plots.Mistake:
    """Return the part of the chip round a wrong box."""
    pixels, name = chips[wrong.chip].pixels, detector.classes[wrong.label]
    side = max(_SEEN_AROUND * float(wrong.box.sizes.max()), _SMALLEST_VIEW)
    shape = np.array(pixels.shape[:0:-1])  # width, height
    corner = np.clip(wrong.box.centres[0] - side / 2, 0, np.maximum(shape - side, 0)).astype(int)
    end = np.minimum(corner + int(side), shape)
    return plots.Mistake(
        pixels[:, corner[1] : end[1], corner[0] : end[0]],
        wrong.box.corners[0] - corner,
        name,
        truth[wrong.chip].corners - corner,
        f"{name} {wrong.reason}",
    )
