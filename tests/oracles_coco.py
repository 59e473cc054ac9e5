"""What pycocotools makes of our chips."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from geodetect.boxes import Boxes, to_xywh

UNCAPPED = 100_000
SIZES = ("all", "small", "medium", "large")


def coco_evaluation(
    made: Sequence[tuple[Boxes, Boxes]],
    n_classes: int,
    *,
    match_ious: Sequence[float] | None = None,
    max_boxes: int | None = None,
) -> COCOeval:
    """The evaluation of (detections, truth) of chips.

    It ignores objects with an area beyond all ranges, as ours that are ignored get. Without pycocotools' cap on
    the number of detections unless one is given.
    """

    def rows(boxes: Boxes, image: int) -> list[dict]:
        xywh, labels = to_xywh(boxes.xyxy).tolist(), boxes.labels.tolist()
        return [
            {"image_id": image, "category_id": c, "bbox": b, "area": b[2] * b[3] if counts else 1e11}
            for b, c, counts in zip(xywh, labels, boxes.counted.tolist(), strict=True)
        ]

    truth, found = COCO(), []
    marked = [row for k, (_, boxes) in enumerate(made) for row in rows(boxes, k)]
    truth.dataset = {
        "info": {},
        "images": [{"id": k} for k in range(len(made))],
        "categories": [{"id": c} for c in range(n_classes)],
        "annotations": [row | {"id": k + 1, "iscrowd": 0} for k, row in enumerate(marked)],
    }
    for k, (boxes, _) in enumerate(made):
        found += [row | {"score": s} for row, s in zip(rows(boxes, k), boxes.scores.tolist(), strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        # Its loadRes takes an empty list for a list of nothing it knows.
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), "bbox")
        if match_ious is not None:
            evaluation.params.iouThrs = np.array(match_ious)
        evaluation.params.maxDets = [UNCAPPED if max_boxes is None else max_boxes]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def coco_scores(made: Sequence[tuple[Boxes, Boxes]], n_classes: int, max_boxes: int | None) -> dict[str, np.ndarray]:
    """AP, AP50, AP75, APs, APm, APl and AR of each class, NaN where pycocotools gives -1."""
    result = coco_evaluation(made, n_classes, max_boxes=max_boxes).eval
    precision = np.where(result["precision"] < 0, np.nan, result["precision"])[..., 0].mean(axis=1)  # (T, K, sizes)
    recall = np.where(result["recall"] < 0, np.nan, result["recall"])[..., 0]
    sizes = {f"AP{size[0]}": precision[:, :, a].mean(axis=0) for a, size in enumerate(SIZES) if a}
    whole = precision[:, :, 0]
    return {
        "AP": whole.mean(axis=0),
        "AP50": whole[0],
        "AP75": whole[5],
        **sizes,
        "AR": recall[:, :, 0].mean(axis=0),
    }
