"""Thresholds from validation, and what was wrong there, on chips worked by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from geodetect.boxes import Boxes
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.grid import Window
from geodetect.learner.mistakes import find_errors, show_errors
from geodetect.learner.thresholds import suppress, tune
from geodetect.metadata import HasMetadata, Metadata
from tests.fakes import FakeReader

# Two roofs, each found twice: the second box overlaps the first by 8 of 12 rows, 0.667.
ROOFS = Boxes([[0, 0, 10, 10], [30, 30, 40, 40]], [0, 0])
TWICE = Boxes([[0, 0, 10, 10], [0, 2, 10, 12], [30, 30, 40, 40], [30, 32, 40, 42]], [0, 0, 0, 0], [0.9, 0.8, 0.5, 0.45])


@dataclass
class Told(HasMetadata):
    """A detector that finds what it is told to, chip by chip."""

    found: list[Boxes]
    metadata: Metadata = field(init=False)
    seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.metadata = Metadata(classes=("roof", "car"), bands=(1, 2, 3), chip_size=64, overlap=16)

    def detect(self, pixels: np.ndarray, *, min_score: float, nms_iou: float) -> list[Boxes]:
        first, self.seen = self.seen, self.seen + len(pixels)
        return self.found[first : self.seen]


def chips(*truth: Boxes) -> Chips:
    """Dark chips of 64 px, each of a raster of its own."""
    rasters = [FakeReader(np.zeros((3, 64, 64), np.uint8)) for _ in truth]
    return Chips([ChipPlan(reader, Window(0, 0, 64, 64), boxes) for reader, boxes in zip(rasters, truth, strict=True)])


def test_scores_and_suppression_are_tuned_together() -> None:
    table = tune(Told([TWICE]), chips(ROOFS))
    # Up to 0.65 the second boxes go: two hits, nothing false. At 0.7 they stay: from 0.5 on two hits and one false,
    # 2 * 2 / (3 + 2); from 0.9 on only 2 * 1 / (1 + 2).
    assert table["f1"]["roof"].to_dict() == pytest.approx({iou: 1 if iou < 0.7 else 0.8 for iou in table.index})
    assert (table["min_score"]["roof"] == 0.5).all()
    assert table["f1"]["car"].isna().all()
    assert (table["min_score"]["car"] == 0.5).all()
    assert table["f1"]["all"].tolist() == table["f1"]["roof"].tolist()
    assert table.index.name == "nms_iou"


def test_suppression_of_no_boxes_and_of_classes_apart() -> None:
    assert len(suppress(Boxes.empty(scored=True), 0.5)) == 0
    apart = Boxes(TWICE.xyxy, [0, 1, 0, 1], TWICE.scores)
    assert len(suppress(apart, 0.5)) == 4
    assert suppress(TWICE, 0.5).xyxy.tolist() == ROOFS.xyxy.tolist()


def test_mistakes_are_told_apart_and_the_worst_come_first() -> None:
    found = Boxes(
        [[0, 0, 10, 10], [0, 2, 10, 12], [30, 36, 40, 46], [50, 50, 60, 60], [5, 40, 15, 50], [50, 0, 60, 10]],
        [0, 0, 0, 0, 1, 0],
        [0.9, 0.8, 0.7, 0.95, 0.6, 0.2],
    )
    truth = Boxes([[0, 0, 10, 10], [30, 30, 40, 40], [5, 40, 15, 50], [50, 0, 60, 10], [20, 0, 22, 4]], [0, 0, 0, 0, 1])
    false, missed = find_errors(Told([]), [found, Boxes.empty(scored=True)], [truth, ROOFS[:1]])
    assert [(each.badness, each.reason) for each in false] == [
        (0.95, "0.95, nothing there"),
        (0.8, "0.80, found twice"),
        (0.7, "0.70, IoU 0.25"),  # 4 of 16 rows
        (0.6, "0.60, is roof"),
    ]
    # Unseen ones by size: three of 100 square pixels, one of 8; then what is seen, but below the score that counts.
    assert [(each.chip, each.reason, each.badness) for each in missed] == [
        (0, "unseen", 100.0),
        (0, "unseen", 100.0),
        (1, "unseen", 100.0),
        (0, "unseen", 8.0),
        (0, "only 0.20", -0.2),
    ]


def test_mistakes_are_drawn() -> None:
    figure = show_errors(Told([TWICE]), chips(ROOFS), rows=1)
    false, missed = figure.subfigs
    assert false.get_suptitle() == "Found, but wrong"
    assert missed.get_suptitle() == "Missed: none"
    assert [ax.get_title() for ax in false.axes][:1] == ["roof 0.80, found twice"]
    right = Boxes(ROOFS.xyxy, ROOFS.labels, [0.9, 0.9])
    assert show_errors(Told([right]), chips(ROOFS), rows=2).subfigs[0].get_suptitle() == "Found, but wrong: none"


def test_a_place_that_two_chips_share_is_drawn_once() -> None:
    reader = FakeReader(np.zeros((3, 64, 96), np.uint8))
    shared = Chips(
        [ChipPlan(reader, Window(x, 0, 64, 64), ROOFS[1:].shift(-x, 0) if x else ROOFS[1:]) for x in (0, 16)]
    )
    nothing = Boxes.empty(scored=True)
    _, missed = show_errors(Told([nothing, nothing]), shared, rows=1).subfigs
    assert [ax.get_title() for ax in missed.axes] == ["roof unseen", ""]
