"""Validation as a map shows it: the held-out ground detected in windows that share pixels, and sewn together.

Chips show an object once; windows that share pixels show it up to four times, and its best score and every false box
stay. So the best score to cut a map at lies higher than that of single chips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from geodetect.boxes import Boxes
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.learner.results import DetectsChips, detect_chips
from geodetect.metadata import LOWEST_SCORE
from geodetect.raster import MaskedReader
from geodetect.scene.detect import boxes_within

_MOST_CHIPS = 100  # of validation; one that lies alone stands for nine windows, and more would hardly move the score


def detect_ground(detector: DetectsChips, chips: Chips, *, nms_iou: float = 0.5) -> tuple[list[Boxes], list[Boxes]]:
    """Detections and true boxes of each scene that the chips are of, in scene pixels; a picture of one chip is one.

    Boxes count by their centre, which lies in a chip; true boxes are those of whole objects. Of many chips some are
    taken, evenly.

    Args:
        detector: made ready.
        chips: with true boxes, none of which it has learnt from.
        nms_iou: overlap above which the worse of two boxes of one class is dropped.
    """
    scenes: dict[int, list[ChipPlan]] = {}
    chosen = np.unique(np.linspace(0, len(chips) - 1, min(len(chips), _MOST_CHIPS)).astype(int))
    for plan in (chips.plans[i] for i in chosen):
        scenes.setdefault(id(plan.reader), []).append(plan)
    alone = [plans[0] for plans in scenes.values() if _is_alone(plans)]
    found, truth = detect_chips(detector, Chips(alone), nms_iou=nms_iou)
    for plans in scenes.values():
        if not _is_alone(plans):
            area = _ground(plans)
            reader = plans[0].reader
            found.append(boxes_within(reader, detector, area, min_score=LOWEST_SCORE, nms_iou=nms_iou))
            truth.append(_objects(plans, area))
            reader.close()  # of hundreds of scenes not all are held open; training opens its own again
    return found, truth


def _is_alone(plans: Sequence[ChipPlan]) -> bool:
    """Whether a scene is a single chip, which a map shows in one window too."""
    return len(plans) == 1 and plans[0].reader.grid.shape == (plans[0].window.height, plans[0].window.width)


def _ground(plans: Sequence[ChipPlan]) -> shapely.Geometry:
    """What the chips of one scene cover, in its pixels."""
    ground = shapely.union_all(shapely.box(*np.array([plan.window.xyxy for plan in plans]).T))
    reader = plans[0].reader
    return shapely.intersection(ground, reader.area) if isinstance(reader, MaskedReader) else ground


def _whole(plan: ChipPlan) -> Boxes:
    """The objects of a chip in scene pixels."""
    return plan.boxes.shift(plan.window.x, plan.window.y) if plan.objects is None else plan.objects


def _objects(plans: Sequence[ChipPlan], area: shapely.Geometry) -> Boxes:
    """The objects with their centre in the area, each once, however many chips hold it."""
    every = Boxes.concat([_whole(plan) for plan in plans])
    _, first = np.unique(np.column_stack([every.xyxy, every.labels]), axis=0, return_index=True)
    objects = every[np.sort(first)]
    return objects[np.asarray(shapely.intersects_xy(area, *objects.centres.T))]
