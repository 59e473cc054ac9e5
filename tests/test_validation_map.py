"""Validation as a map shows it: each object once and whole, and the score that serves the map best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import shapely

from geodetect import compute_accuracy, detect_objects, prepare_data
from geodetect.boxes import Boxes
from geodetect.chips import DetectionData
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.grid import Grid, Window
from geodetect.learner import thresholds
from geodetect.learner.results import detect_chips
from geodetect.learner.thresholds import choose_scores, detect_ground, tune
from tests.fakes import (
    CLASSES,
    SHAPE,
    TRUTH,
    UPRIGHT,
    UTM,
    FakeReader,
    PaintDetector,
    PaintedScene,
    painted,
    write_raster,
)

NAMES = ("blue", "red")  # as data has them
SMALL = Boxes([[8, 8, 20, 20], [40, 30, 50, 40]], [0, 1])


@dataclass(frozen=True)
class Unsure(PaintDetector):
    """Finds painted squares, the better the further they are from the window's edges, and sees things besides."""

    min_score: float = 0.0

    def detect(self, pixels: np.ndarray, *, min_score: float = 0, nms_iou: float = 0.5) -> list[Boxes]:
        return [self._doubted(boxes, chip) for boxes, chip in zip(super().detect(pixels), pixels, strict=True)]

    def _doubted(self, found: Boxes, chip: np.ndarray) -> Boxes:
        inward = np.minimum(found.centres, self.chip_size - found.centres).min(axis=1) / self.chip_size
        # Of what it sees besides some is as good as the squares, by a number that the pixels give.
        number = int(chip.astype(int).sum())
        corner = np.array([[number % 40, number // 7 % 40]], float)
        besides = Boxes(np.hstack([corner, corner + 12]), [number % 2], [0.2 + number % 31 / 100])
        return Boxes.concat([Boxes(found.xyxy, found.labels, 0.1 + inward), besides])


def _data(scene: PaintedScene, overlap: int, aoi: object = None) -> DetectionData:
    return prepare_data(
        scene.path, scene.truth, chip_size=64, overlap=overlap, split="random", val_split_pct=0.5, aoi=aoi
    )


def _ground(chips: Chips) -> shapely.Geometry:
    """What chips cover, in map coordinates of an upright scene."""
    return shapely.union_all([shapely.Polygon(plan.grid.corners) for plan in chips.plans])


@pytest.mark.parametrize("overlap", [0, 24, 48])
def test_each_object_is_there_once_and_whole(upright: PaintedScene, overlap: int) -> None:
    chips = _data(upright, overlap).valid
    (found,), (truth,) = detect_ground(PaintDetector(classes=NAMES), chips)
    inside = shapely.intersects_xy(shapely.union_all(shapely.box(*_corners(chips).T)), *upright.boxes.centres.T)
    names = np.array([NAMES.index(CLASSES[label]) for label in upright.boxes.labels])
    expected = Boxes(upright.boxes.xyxy, names)[inside]
    for boxes in (found, truth):
        order, due = np.lexsort(boxes.xyxy.T), np.lexsort(expected.xyxy.T)
        assert np.allclose(boxes.xyxy[order], expected.xyxy[due])
        assert boxes.labels[order].tolist() == expected.labels[due].tolist()


def _corners(chips: Chips) -> np.ndarray:
    return np.array([plan.window.xyxy for plan in chips.plans])


@pytest.mark.parametrize("overlap", [0, 24])
def test_the_operating_point_is_the_best_score_of_the_map(upright: PaintedScene, overlap: int) -> None:
    chips, detector = _data(upright, overlap).valid, Unsure(classes=NAMES)
    area = _ground(chips)
    mapped = detect_objects(upright.path, detector, aoi=area, min_score=0.05, progress=False)
    told = choose_scores(detector, chips)
    for name, score in told.items():
        one, truth = (frame[frame["label"] == name] for frame in (mapped, upright.truth))
        assert compute_accuracy(one, truth, aoi=area).best_score == pytest.approx(score, abs=1e-12)
    assert tune(detector, chips)["min_score"].loc[0.5].to_dict() == told


def test_ground_outside_the_area_of_interest_is_not_looked_at(upright: PaintedScene) -> None:
    x1, y1, x2, y2 = upright.grid.bounds
    aoi = shapely.box(x1, y1, x1 + (x2 - x1) / 2, y2)
    found, truth = detect_ground(PaintDetector(classes=NAMES), _data(upright, 0, aoi).valid)
    half = upright.grid.shape[1] / 2
    assert all((boxes.centres[:, 0] <= half).all() for boxes in [*found, *truth])


def test_objects_that_the_area_cuts_are_as_far_as_they_are_seen(upright: PaintedScene) -> None:
    x1, _, _, y2 = upright.grid.bounds
    aoi = shapely.box(x1, y2 - 97 * 0.5, x1 + 127 * 0.5, y2)  # through the square at 120 to 132, 90 to 102
    (found,), (truth,) = detect_ground(PaintDetector(classes=NAMES), Chips(_data(upright, 0, aoi).plans))
    assert [120.0, 90.0, 127.0, 97.0] in truth.xyxy.tolist()
    assert sorted(found.xyxy.tolist()) == sorted(truth.xyxy.tolist())


def test_objects_on_no_data_are_not_missed(tmp_path: Path) -> None:
    pixels = painted()
    pixels[:, 110:145, 140:180] = 0  # a hole that the square at 150 to 170, 120 to 140 lies in
    path = write_raster(tmp_path / "hole.tif", pixels, Grid(SHAPE, UPRIGHT, UTM), nodata=0)
    scene = PaintedScene(path, Grid(SHAPE, UPRIGHT, UTM), TRUTH)
    (found,), (truth,) = detect_ground(PaintDetector(classes=NAMES), Chips(_data(scene, 24).plans))
    assert sorted(found.xyxy.tolist()) == sorted(truth.xyxy.tolist())
    assert len(truth) == len(TRUTH) - 1


def test_a_detector_that_runs_out_of_memory_is_tuned(upright: PaintedScene) -> None:
    class Small(Unsure):
        def detect(self, pixels: np.ndarray, *, min_score: float = 0, nms_iou: float = 0.5) -> list[Boxes]:
            if len(pixels) > 3:
                raise MemoryError
            return super().detect(pixels, min_score=min_score, nms_iou=nms_iou)

    chips = _data(upright, 24).valid
    assert tune(Small(classes=NAMES), chips).equals(tune(Unsure(classes=NAMES), chips))


def test_scenes_are_closed(upright: PaintedScene) -> None:
    chips = _data(upright, 0).valid
    detect_ground(PaintDetector(classes=NAMES), chips)
    assert not chips.plans[0].reader._handles._datasets
    assert len(chips[0].pixels) == 3  # and opened again


def test_pictures_are_looked_at_as_they_are() -> None:
    detector = Unsure(classes=NAMES)
    chips = Chips([ChipPlan(FakeReader(painted((64, 64), SMALL)), Window(0, 0, 64, 64), SMALL) for _ in range(3)])
    (found, truth), (due, _) = detect_ground(detector, chips), detect_chips(detector, chips)
    assert [boxes.xyxy.tolist() for boxes in truth] == [SMALL.xyxy.tolist()] * 3
    assert [boxes.scores.tolist() for boxes in found] == [boxes.scores.tolist() for boxes in due]


def test_of_many_chips_some_are_taken(upright: PaintedScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "_MOST_CHIPS", 2)
    chips = _data(upright, 24).valid
    assert len(chips) > 2
    (_,), (truth,) = detect_ground(PaintDetector(classes=NAMES), chips)
    (_,), (same,) = detect_ground(PaintDetector(classes=NAMES), Chips([chips.plans[0], chips.plans[-1]]))
    assert np.array_equal(truth.xyxy, same.xyxy)


def _nothing(found: Sequence[Boxes]) -> bool:
    return not any(len(boxes) for boxes in found)


def test_no_chips_say_nothing() -> None:
    found, truth = detect_ground(PaintDetector(classes=NAMES), Chips([]))
    assert _nothing(found)
    assert _nothing(truth)
