"""What a detector got wrong on validation chips: false detections and missed objects, the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geodetect import plots
from geodetect.boxes import Boxes, iou
from geodetect.chips.chip import Chips
from geodetect.detector import Detector
from geodetect.learner.results import detect_chips
from geodetect.metrics import match
from geodetect.raster import Reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RIGHT_IOU, _NEAR_IOU = 0.5, 0.1  # from which a detection is right, and from which it is at least near
_SEEN_AROUND, _SMALLEST_VIEW = 3.5, 48  # what is shown round a wrong box: times its longer side, and pixels at least


def show_errors(detector: Detector, chips: Chips, rows: int) -> Figure:
    """The detections with the best scores that find nothing true, and the objects that are seen least.

    Raises:
        ArgumentError: if `rows` is not from 1 to 100.
    """
    plots.check_rows(rows)
    found, truth = detect_chips(detector, chips)
    false, missed = errors_of(detector, found, truth)
    return plots.errors_figure(
        [_mistake(detector, chips, each, truth) for each in _apart(false, chips, 2 * rows)],
        [_mistake(detector, chips, each, truth) for each in _apart(missed, chips, 2 * rows)],
        classes=detector.classes,
    )


def _apart(wrong: list[Wrong], chips: Chips, most: int) -> list[Wrong]:
    """The first ones, each place once: where chips overlap, they are wrong about the same ground."""
    kept: list[Wrong] = []
    places: list[tuple[Reader, np.ndarray]] = []
    for each in wrong:
        plan = chips.plans[each.chip]
        place = each.box + np.tile([plan.window.x, plan.window.y], 2)
        near = [box for reader, box in places if reader is plan.reader]
        if len(kept) < most and not (iou(place[None], np.reshape(near, (-1, 4))) >= _RIGHT_IOU).any():
            kept.append(each)
            places.append((plan.reader, place))
    return kept


class Wrong(NamedTuple):
    """A false detection or a missed object: its chip, its box, its class, how bad it is, and why."""

    chip: int
    box: np.ndarray
    label: int
    badness: float
    reason: str


def errors_of(detector: Detector, found: list[Boxes], truth: list[Boxes]) -> tuple[list[Wrong], list[Wrong]]:
    """False detections and missed objects at IoU 0.5, the worst first.

    False ones count from the detector's `min_score` on, and the higher their score the worse they are. Missed
    ones are the worse the lower the score is of what overlaps them, and of those that nothing does, the larger.

    Args:
        detector: what found the boxes.
        found: detections of each chip, whatever their score.
        truth: true boxes of each chip.
    """
    floors = detector.min_score
    by_class = np.array([floors.get(k, 0.5) if isinstance(floors, Mapping) else floors for k in detector.classes])
    false: list[Wrong] = []
    missed: list[Wrong] = []
    for number, (boxes, true) in enumerate(zip(found, truth, strict=True)):
        counted = boxes[np.asarray(boxes.scores) >= by_class[boxes.labels]]
        partner = match(counted, true, _RIGHT_IOU)[0]
        false += _false(number, counted, partner, true, detector.classes)
        missed += _missed(number, boxes, np.setdiff1d(np.arange(len(true)), partner), true)
    return sorted(false, key=lambda each: -each.badness), sorted(missed, key=lambda each: -each.badness)


def _false(number: int, counted: Boxes, partner: np.ndarray, true: Boxes, classes: Sequence[str]) -> list[Wrong]:
    overlap, scores, wrong = iou(counted.xyxy, true.xyxy), np.asarray(counted.scores), []
    for i in np.flatnonzero(partner < 0):
        label, score = int(counted.labels[i]), float(scores[i])
        reason = f"{score:.2f}, {_why_false(label, overlap[i], true, classes)}"
        wrong.append(Wrong(number, counted.xyxy[i], label, score, reason))
    return wrong


def _why_false(label: int, overlap: np.ndarray, true: Boxes, classes: Sequence[str]) -> str:
    nearest = int(overlap.argmax()) if len(overlap) else -1
    if nearest < 0 or overlap[nearest] < _NEAR_IOU:
        return "nothing there"
    if overlap[nearest] < _RIGHT_IOU:
        return f"IoU {overlap[nearest]:.2f}"
    other = int(true.labels[nearest])
    return "found twice" if other == label else f"is {classes[other]}"


def _missed(number: int, boxes: Boxes, lost: np.ndarray, true: Boxes) -> list[Wrong]:
    overlap = iou(true.xyxy, boxes.xyxy)
    wrong = []
    for j in lost:
        near = (overlap[j] >= _RIGHT_IOU) & (boxes.labels == true.labels[j])
        best = float(np.asarray(boxes.scores)[near].max(initial=0.0))
        size = float(np.prod(true.sizes[j]))
        badness = -best if best else size  # sizes are above 0
        wrong.append(
            Wrong(number, true.xyxy[j], int(true.labels[j]), badness, f"only {best:.2f}" if best else "unseen")
        )
    return wrong


def _mistake(detector: Detector, chips: Chips, wrong: Wrong, truth: list[Boxes]) -> plots.Mistake:
    """The surroundings of a wrong box, cut out of its chip."""
    pixels, name = chips[wrong.chip].pixels, detector.classes[wrong.label]
    side = max(_SEEN_AROUND * float((wrong.box[2:] - wrong.box[:2]).max()), _SMALLEST_VIEW)
    shape = np.array(pixels.shape[:0:-1])  # width, height
    corner = np.clip((wrong.box[:2] + wrong.box[2:] - side) / 2, 0, np.maximum(shape - side, 0)).astype(int)
    end = np.minimum(corner + int(side), shape)
    return plots.Mistake(
        pixels[:, corner[1] : end[1], corner[0] : end[0]],
        wrong.box - np.tile(corner, 2),
        name,
        truth[wrong.chip].shift(-float(corner[0]), -float(corner[1])).xyxy,
        f"{name} {wrong.reason}",
    )
