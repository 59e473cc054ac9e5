"""Suppression across windows: exactly what `nms` of all boxes gives, without ever holding all boxes.

A scene is worked through from top to bottom, whole or in strips that lie one below the
other. Two promises carry everything: boxes still to come do not start above `row_end`, and
the boxes of the strip above do not reach below `row_start`. A box between the two lines
overlaps nothing unseen (boxes that only touch have an IoU of 0), so its fate is known as soon as that
of the better boxes it overlaps is. Only the others are held.
"""

from __future__ import annotations

import numpy as np

from geodetect.boxes import Boxes, settle
from geodetect.errors import ArgumentError, is_share


class Seam:
    """Non-maximum suppression that takes the boxes of a scene, or of a strip of it, bit by bit.

    All that `feed` and `flush` return together is exactly what `nms` of all boxes gives, in any
    order of arrival that keeps the promises, and however strips were merged.

    Args:
        nms_iou: overlap above which the worse of two boxes of one class goes, 0 to 1.
        row_start: where the strip above ends, in scene pixels: its boxes do not reach below this
            line. Boxes that start above it, and whatever depends on them, stay unsettled until
            they are merged with the strip above. -inf: nothing lies above.

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
        """The boxes that wait: those that reach past a line, and those that hang on them.

        Fed to the seam of a larger part of the scene they stand for all that this one was fed and did not return.
        """
        return self._held

    def feed(self, boxes: Boxes, row_end: float = -np.inf) -> Boxes:
        """The boxes that are settled now, best first; each is returned once.

        Args:
            boxes: detections in scene pixels, of any windows below the lines promised so far.
            row_end: no later box starts above this line; a promise once given stands.

        Raises:
            ArgumentError: if a box starts above a line that an earlier call promised, or has no score.
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
        # Such a box might overlap one that was returned already, and nobody could take that back.
        highest = boxes.bounds[:, 1].min(initial=np.inf)
        if highest < self.row_end:
            raise ArgumentError(
                f"no box may start above row_end={self.row_end:g}, as an earlier call promised; "
                f"got one that starts at {highest:g}"
            )

    def flush(self) -> Boxes:
        """The rest, best first: nothing more will come from below.

        In a strip with another above it, what hangs on that one stays held for `merge`.
        """
        return self.feed(Boxes.empty(scored=True), row_end=np.inf)

    def merge(self, other: Seam) -> Seam:
        """This seam, grown by the part of the scene below; the next `feed` or `flush` returns what that settled.

        Args:
            other: the part below; its boxes start at or below this one's `row_end`, and this
                one's end at or above its `row_start`. It is used up.

        Raises:
            ArgumentError: if the two suppress at different `nms_iou`, or a box of `other` breaks a promise.
        """
        if other.nms_iou != self.nms_iou:
            raise ArgumentError(f"parts of one scene share one nms_iou; got {self.nms_iou} and {other.nms_iou}")
        self._check(other._held)
        self._held = Boxes.concat([self._held, other._held])
        self.row_end = max(self.row_end, other.row_end)
        return self
