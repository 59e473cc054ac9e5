"""Non-maximum suppression across windows: equal to `nms` of all boxes, without holding all boxes in memory.

A scene is processed from top to bottom, whole or in strips one below the other. Two guarantees are
required: later boxes do not start above `row_end`, and boxes of the strip above do not reach below
`row_start`. A box between the two lines overlaps no box that is still unknown (boxes that only touch
have an IoU of 0), so it is settled as soon as the higher-scored boxes that it overlaps are. Only the
others are held.
"""

from __future__ import annotations

import numpy as np

from geodetect.boxes import Boxes, settle
from geodetect.errors import ArgumentError, is_share


class Seam:
    """Incremental non-maximum suppression of the boxes of a scene or a strip of it.

    The boxes returned by `feed` and `flush` together equal `nms` of all boxes, for any order of arrival
    that keeps the guarantees, and however strips were merged.

    Args:
        nms_iou: overlap above which the lower-scored of two boxes of one class is dropped, 0 to 1.
        row_start: where the strip above ends, in scene pixels: its boxes do not reach below this
            line. Boxes that start above it, and boxes that depend on them, stay unsettled until
            they are merged with the strip above. -inf: there is no strip above.

    Raises:
        ArgumentError: if `nms_iou` is not between 0 and 1.
    """

    def __init__(self, nms_iou: float, row_start: float = -np.inf) -> None:
        if not is_share(nms_iou):
            raise ArgumentError(f"nms_iou must lie between 0 and 1 (intersection over union); got {nms_iou!r}")
        self.nms_iou = nms_iou
        self.row_start = row_start
        self.row_end = -np.inf
        self._held = Boxes.empty(scored=True)

    @property
    def held(self) -> Boxes:
        """Unsettled boxes: those that extend past a line, and those that depend on them.

        Fed to the seam of a larger part of the scene, they replace all boxes that this one has not returned.
        """
        return self._held

    def feed(self, boxes: Boxes, row_end: float = -np.inf) -> Boxes:
        """Add boxes and return those that are settled now, highest score first; each is returned once.

        Args:
            boxes: detections in scene pixels, none starting above the `row_end` of earlier calls.
            row_end: no later box starts above this line; it never moves back up.

        Raises:
            ArgumentError: if a box starts above the `row_end` of an earlier call, or has no score.
        """
        self._check(boxes)
        self.row_end = max(self.row_end, row_end)
        boxes = Boxes.concat([self._held, boxes])
        y1, y2 = boxes.bounds[:, 1], boxes.bounds[:, 3]
        settled = settle(boxes, self.nms_iou, (y1 < self.row_start) | (y2 > self.row_end))
        self._held = boxes[settled.unsure]
        return boxes[settled.kept]

    def _check(self, boxes: Boxes) -> None:
        if boxes.scores is None:
            raise ArgumentError("a seam takes detections, which have scores; these boxes have none")
        # Such a box might overlap one that was returned already.
        highest = boxes.bounds[:, 1].min(initial=np.inf)
        if highest < self.row_end:
            raise ArgumentError(
                f"no box may start above row_end={self.row_end:g}, as an earlier call promised; "
                f"got one that starts at {highest:g}"
            )

    def flush(self) -> Boxes:
        """Return the remaining boxes, highest score first; no more boxes follow.

        In a strip with another above it, boxes that depend on that one stay held for `merge`.
        """
        return self.feed(Boxes.empty(scored=True), row_end=np.inf)

    def merge(self, other: Seam) -> Seam:
        """Merge the part of the scene below into this seam; the next `feed` or `flush` returns what that settled.

        Args:
            other: the part below; its boxes start at or below this one's `row_end`, and this
                one's end at or above its `row_start`. It must not be used afterwards.

        Raises:
            ArgumentError: if the two have a different `nms_iou`, or a box of `other` starts above `row_end`.
        """
        if other.nms_iou != self.nms_iou:
            raise ArgumentError(f"parts of one scene share one nms_iou; got {self.nms_iou} and {other.nms_iou}")
        self._check(other._held)
        self._held = Boxes.concat([self._held, other._held])
        self.row_end = max(self.row_end, other.row_end)
        return self
