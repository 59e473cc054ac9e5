"""Thresholds from validation: the scores, and the overlap in suppression, with the best F1 on a map.

Chips show an object once; on a map windows that share pixels show it up to four times, and its best score and every
false box stay. So the score with the best F1 is higher for a map than for single chips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import shapely
import torch
from torchvision.ops import batched_nms

from geodetect.boxes import Boxes, nms
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.detector import Detector
from geodetect.errors import GeodetectError, warn
from geodetect.learner import distributed
from geodetect.learner.hits import Hits
from geodetect.learner.results import DetectsChips, detect_chips
from geodetect.metadata import CANDIDATE_MIN_SCORE, NMS_IOU, HasMetadata
from geodetect.raster import MaskedReader
from geodetect.scene.detect import boxes_within
from geodetect.scene.models import optimise

_NMS_IOUS = [0.3, 0.35, 0.4, 0.45, NMS_IOU, 0.55, 0.6, 0.65, 0.7]
_MOST_CHIPS = 100  # of validation; an isolated one needs nine windows, and more would hardly change the score


def set_min_score(detector: Detector, chips: Chips) -> None:
    """Set the detector's `min_score` from a map of the chips' ground; warn and keep it if that cannot be made.

    The first of several processes finds the scores for all.
    """
    scores, problem = detector.min_score, ""
    if distributed.rank() == 0:
        try:
            scores = choose_scores(detector, chips)
        except (
            GeodetectError,
            OSError,
            MemoryError,
            RuntimeError,
        ) as error:  # RuntimeError: also torch's out of memory
            problem = str(error) or type(error).__name__
    scores, problem = distributed.gather([(scores, problem)])[0]
    if problem:
        warn(f"the validation ground could not be mapped: {problem}; min_score stays that of single chips")
    detector.min_score = scores


def choose_scores(detector: DetectsChips, chips: Chips) -> dict[str, float]:
    """Return for each class the score with the best F1 on a map of the validation ground; 0.5 without a hit."""
    found, truth = detect_ground(optimise(detector), chips)
    best = Hits.of(found, truth, len(detector.classes)).best_f1()
    return dict(zip(detector.classes, best.scores.tolist(), strict=True))


def tune(detector: DetectsChips, chips: Chips) -> pd.DataFrame:
    """Return the best F1 on a map of the chips' ground, and the scores that give it, for several `nms_iou`.

    The network sees each window once; the windows are read again for each overlap.

    Returns:
        a row for each `nms_iou`; columns `f1` of each class and of `all`, their mean, and `min_score` of each class.
        A class without an object has NaN and 0.5.
    """
    cached, names = _Cached(optimise(detector)), detector.classes
    best = [Hits.of(*detect_ground(cached, chips, nms_iou=iou), len(names)).best_f1() for iou in _NMS_IOUS]
    index = pd.Index(_NMS_IOUS, name="nms_iou")
    f1 = pd.DataFrame([each.f1 for each in best], index, names)
    scores = pd.DataFrame([each.scores for each in best], index, names)
    return pd.concat({"f1": f1.assign(all=f1.mean(axis=1)), "min_score": scores}, axis=1)


class _Cached(HasMetadata):
    """A detector that runs once for each window, and suppresses its cached boxes at any overlap."""

    def __init__(self, detector: DetectsChips) -> None:
        self.metadata = detector.metadata
        self._detector = detector
        self._boxes: dict[bytes, Boxes] = {}  # before suppression, by the checksum of the window's pixels

    def detect(
        self, pixels: np.ndarray, /, *, min_score: float = CANDIDATE_MIN_SCORE, nms_iou: float = NMS_IOU
    ) -> list[Boxes]:
        """Return the boxes of each window of the batch."""
        keys = [hashlib.sha256(window.tobytes()).digest() for window in pixels]
        if not self._boxes.keys() >= set(keys):
            self._boxes |= zip(keys, self._detector.detect(pixels, min_score=min_score, nms_iou=1.0), strict=True)
        return [suppress(self._boxes[key], nms_iou) for key in keys]


def suppress(boxes: Boxes, nms_iou: float) -> Boxes:
    """Return the boxes of one window after non-maximum suppression within each class, as in inference."""
    if boxes.oriented:
        return boxes[nms(boxes, nms_iou)]
    corners, scores, labels = (torch.from_numpy(np.asarray(x)) for x in (boxes.xyxy, boxes.scores, boxes.labels))
    return boxes[batched_nms(corners, scores, labels, nms_iou).numpy()]


def detect_ground(detector: DetectsChips, chips: Chips, *, nms_iou: float = NMS_IOU) -> tuple[list[Boxes], list[Boxes]]:
    """Return detections and true boxes of each scene that the chips are of, in scene pixels.

    Scenes are detected as `detect_objects` does, an image of a single chip in one piece. Boxes count if their centre
    lies in a chip; true boxes are whole objects. More than 100 chips are thinned out evenly. The detector is one that
    `optimise` returned.
    """
    scenes: dict[int, list[ChipPlan]] = {}
    chosen = np.unique(np.linspace(0, len(chips) - 1, min(len(chips), _MOST_CHIPS)).astype(int))
    for plan in (chips.plans[i] for i in chosen):
        scenes.setdefault(id(plan.reader), []).append(plan)
    single = [plans[0] for plans in scenes.values() if _is_single_chip(plans)]
    found, truth = detect_chips(detector, Chips(single), nms_iou=nms_iou)
    for plans in scenes.values():
        if _is_single_chip(plans):
            continue
        reader = plans[0].reader
        area = shapely.union_all(shapely.box(*np.array([plan.window.xyxy for plan in plans]).T))
        if isinstance(reader, MaskedReader):
            area = shapely.intersection(area, reader.area)
        found.append(boxes_within(reader, detector, area, min_score=CANDIDATE_MIN_SCORE, nms_iou=nms_iou))
        objects = Boxes.concat(
            [plan.boxes.shift(plan.window.x, plan.window.y) if plan.objects is None else plan.objects for plan in plans]
        )
        columns = [objects.xyxy, objects.labels] + ([] if objects.angles is None else [objects.angles])
        _, first = np.unique(np.column_stack(columns), axis=0, return_index=True)
        objects = objects[np.sort(first)]  # each once, however many chips hold it
        truth.append(objects[np.asarray(shapely.intersects_xy(area, *objects.centres.T))])
        reader.close()  # there may be hundreds of scenes; training opens its own again
    return found, truth


def _is_single_chip(plans: Sequence[ChipPlan]) -> bool:
    """Return whether a scene is one chip, which a map too shows in one window."""
    return len(plans) == 1 and plans[0].reader.grid.shape == (plans[0].window.height, plans[0].window.width)
