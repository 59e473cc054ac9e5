"""Training: it learns, it keeps the best, it saves and loads, and it says what is wrong."""

from __future__ import annotations

import copy
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ShowGraphCallback
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.callback.training import ShortEpochCallback
from geopandas.testing import assert_geodataframe_equal

import geodetect as gd
from geodetect.boxes import iou
from geodetect.errors import ArgumentError, GeodetectError, ModelError, OutputError, TrainingError
from geodetect.learner.callbacks import patience
from geodetect.learner.thresholds import suppress
from geodetect.learner.training import choose_epochs
from tests.fakes import PaintedScene

EPOCHS = 4
SMALL = {"backbone": "resnet18", "weights": None, "scales": "auto", "size": "small"}
PRETRAINED = SMALL | {"backbone": "efficientnet_lite0", "weights": "imagenet"}


@pytest.fixture(scope="module")
def data(scenes: dict[str, PaintedScene]) -> gd.DetectionData:
    upright = scenes["upright"]
    return gd.prepare_data(upright.path, labels=upright.truth, chip_size=64, overlap=32, batch_size=4)


@pytest.fixture(scope="module")
def few(data: gd.DetectionData) -> gd.DetectionData:
    """Two batches, for what is the same of more."""
    return replace(data, train=data.train[:8])


@pytest.fixture(scope="module")
def trained(data: gd.DetectionData) -> gd.RetinaNet:
    model = gd.RetinaNet(data, **SMALL)
    model.fit(EPOCHS, lr=5e-4, progress=False)
    return model


class Look(Callback):  # type: ignore[misc]
    """Keeps the shapes of what callbacks are given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[torch.Size, torch.Size]] = []

    def after_loss(self) -> None:
        self.shapes.append((self.pred[0].shape, self.pred[1].shape))


@pytest.fixture(scope="module")
def one_epoch(few: gd.DetectionData) -> tuple[gd.RetinaNet, Look]:
    """A model after an epoch without a bar, and a callback that looked on, beside one that draws in a bar."""
    model, look = gd.RetinaNet(few, **SMALL), Look()
    model.fit(1, lr=1e-3, callbacks=[look, ShowGraphCallback()], progress=False)
    return model, look


@pytest.mark.slow  # one chip alone takes half a minute; test_network has the same of a smaller network
def test_it_learns_a_single_chip_by_heart(scenes: dict[str, PaintedScene]) -> None:
    scene = scenes["upright"]
    data = gd.prepare_data(
        scene.path, labels=scene.truth, chip_size=96, overlap=48, transforms=False, batch_size=1, negatives=0
    )
    fullest = max(data.train.plans, key=lambda plan: len(plan.boxes))
    chip = fullest.read()
    alone = replace(data, train=gd.chips.Chips([fullest]), valid=gd.chips.Chips([fullest]))
    model = gd.RetinaNet(alone, **SMALL)
    model.fit(120, lr=2e-3, progress=False, checkpoint=False)
    (found,) = model.detector.detect(chip.pixels[None], min_score=0.5)
    assert len(found) == len(chip.boxes)
    overlap = iou(chip.boxes.xyxy, found.xyxy)
    assert overlap.max(axis=1).min() > 0.7
    assert (found.labels[overlap.argmax(axis=1)] == chip.boxes.labels).all()


def test_training_keeps_the_best_epoch_and_sets_the_operating_point(trained: gd.RetinaNet) -> None:
    best = min(float(loss) for _, loss, _ in trained.learner.recorder.values)
    assert trained.detector.summary["valid_loss"] == pytest.approx(best)
    assert float(trained.learner.validate()[0]) == pytest.approx(best, rel=1e-3)
    assert set(trained.detector.min_score) == {"blue", "red"}
    assert trained.detector.summary["epochs"] == EPOCHS


class OneEpoch(Callback):  # type: ignore[misc]
    """Ends training after its first epoch."""

    def before_epoch(self) -> None:
        if self.epoch:
            raise CancelFitException


def test_few_chips_get_steps_enough_unless_the_epochs_are_given(
    few: gd.DetectionData, capsys: pytest.CaptureFixture[str]
) -> None:
    model = gd.RetinaNet(few, **SMALL)
    model.fit(callbacks=[OneEpoch()])
    told = capsys.readouterr().out
    n_batches = len(few.train) // few.batch_size
    epochs = max(-(-500 // n_batches), -(-2000 // len(few.train)))
    assert f"{epochs} epochs of {n_batches} batches of {few.batch_size} chips: {epochs * n_batches} steps" in told
    assert re.search(r"steps .*\n +epoch .*\n +0 .*\nabout [1-9]\d* min to go", told)
    model.fit(2, callbacks=[OneEpoch()])
    assert "steps" not in capsys.readouterr().out
    model.fit(callbacks=[OneEpoch()], progress=False)
    assert capsys.readouterr().out == ""


def test_many_chips_get_ten_epochs(data: gd.DetectionData) -> None:
    many = replace(data, train=gd.chips.Chips(data.train.plans * 100))
    learner = gd.RetinaNet(many, **SMALL).learner
    assert len(learner.dls.train) > 50
    assert choose_epochs(learner) == 10


def test_the_same_seed_gives_the_same_losses(few: gd.DetectionData, one_epoch: tuple[gd.RetinaNet, Look]) -> None:
    again = gd.RetinaNet(few, **SMALL)
    again.fit(1, lr=1e-3, progress=False)
    runs = [[float(value) for value in model.learner.recorder.losses] for model in (one_epoch[0], again)]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 2


def test_what_callbacks_save_and_find_changes_no_training(data: gd.DetectionData, tmp_path: Path) -> None:
    picture = np.linspace(0, 60000, 3 * 64 * 64).astype(np.uint16).reshape(3, 64, 64)

    class Look(Callback):  # type: ignore[misc]
        def after_batch(self) -> None:
            if self.training and self.iter == 0:
                model.predict(picture)
                model.save(tmp_path / "middle.safetensors")

    runs = []
    for callbacks in ([], [Look()]):
        model = gd.RetinaNet(data, **SMALL)
        model.fit(1, lr=1e-3, callbacks=callbacks, progress=False)
        runs.append([float(value) for value in model.learner.recorder.losses])
        assert not model.detector.network.training  # afterwards
    assert runs[0] == runs[1]
    assert gd.load_detector(tmp_path / "middle.safetensors").classes == model.detector.classes


@pytest.mark.slow
def test_lr_find_leaves_the_weights_alone(data: gd.DetectionData) -> None:
    model = gd.RetinaNet(replace(data, batch_size=2), **SMALL)  # a hundred steps
    before = {name: value.clone() for name, value in model.detector.network.state_dict().items()}
    rate = model.lr_find(plot=False)
    assert 1e-7 < rate < 1
    assert all(torch.equal(before[name], value) for name, value in model.detector.network.state_dict().items())
    model.unfreeze()  # what was found with other parameters frozen is not used
    model.fit(1, one_cycle=False, progress=False)
    assert set(model.learner.recorder.lrs) == {5e-4}


def test_a_loss_that_grows_at_once_gives_no_rate(scenes: dict[str, PaintedScene]) -> None:
    upright = scenes["upright"]
    data = gd.prepare_data(upright.path, labels=upright.truth, chip_size=32, split="random", batch_size=2)
    with pytest.raises(TrainingError, match=r"lr_find\(\) .*lr=0.0005"):
        gd.RetinaNet(data, **SMALL).lr_find(plot=False)


@pytest.mark.filterwarnings("ignore:the backbone has random weights")
def test_a_frozen_backbone_does_not_move(few: gd.DetectionData) -> None:
    model = gd.RetinaNet(few, **SMALL, freeze=True)
    before = {name: value.clone() for name, value in model.detector.network.backbone.state_dict().items()}

    def moved() -> list[str]:
        now = model.detector.network.backbone.state_dict()
        return [name for name, value in before.items() if not torch.equal(value, now[name])]

    model.fit(1, lr=1e-3, progress=False)
    assert moved() == []  # the running means of batch norms neither
    model.unfreeze()
    model.fit(1, lr=1e-3, progress=False)
    assert len(moved()) == len(before)


@pytest.mark.parametrize("freeze", [None, False])
def test_fastais_ways_to_freeze_are_the_models(few: gd.DetectionData, freeze: bool | None) -> None:
    model = gd.RetinaNet(few, **PRETRAINED, freeze=freeze)

    def trainable() -> set[str]:
        return {name for name, each in model.detector.network.named_parameters() if each.requires_grad}

    unfrozen = trainable()
    model.freeze()
    frozen = trainable()
    assert {name.split(".")[0] for name in frozen} == {"pyramid", "class_head", "box_head"}
    learner = model.learner
    for call, due in [
        (learner.unfreeze, unfrozen),
        (learner.freeze, frozen),
        (lambda: learner.freeze_to(0), unfrozen),
        (lambda: learner.freeze_to(1), frozen),
        (lambda: learner.freeze_to(-1), {name for name in frozen if not name.startswith("pyramid")}),
        (model.freeze, frozen),
    ]:
        model._rate = 1.0
        call()
        assert trainable() == due
        assert model._rate is None  # what was found with other parameters frozen is not used


def test_fine_tuning_freezes_the_backbone_first_and_trains_the_pyramid(few: gd.DetectionData) -> None:
    model = gd.RetinaNet(few, **PRETRAINED)
    network, seen = model.detector.network, []

    class Watch(Callback):  # type: ignore[misc]
        """Keeps copies of the weights after each epoch."""

        def after_epoch(self) -> None:
            seen.append(copy.deepcopy(network.state_dict()))

    seen.append(copy.deepcopy(network.state_dict()))
    with model.learner.no_bar(), model.learner.no_logging():
        model.learner.fine_tune(1, cbs=[Watch()])

    def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
        return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}

    assert moved(seen[0], seen[1]) == {"pyramid", "class_head", "box_head"}
    assert moved(seen[1], seen[2]) == {"backbone", "pyramid", "class_head", "box_head"}


def test_a_saved_model_finds_the_same(trained: gd.RetinaNet, few: gd.DetectionData, tmp_path: Path) -> None:
    path = trained.save(tmp_path / "squares.safetensors")
    again = gd.RetinaNet.from_model(path)
    chip = few.train[0]
    ours, theirs = (m.detector.detect(chip.pixels[None], min_score=0.01)[0] for m in (trained, again))
    assert np.array_equal(ours.xyxy, theirs.xyxy)
    assert again.detector.min_score == trained.detector.min_score
    with pytest.raises(TrainingError, match="from_model"):
        again.fit(1)
    further = gd.RetinaNet.from_model(path, few)
    further.fit(1, lr=1e-4, progress=False)


def test_load_takes_the_weights_of_the_same_architecture(
    trained: gd.RetinaNet, data: gd.DetectionData, tmp_path: Path
) -> None:
    path = trained.save(tmp_path / "squares.safetensors")
    model = gd.RetinaNet(data, **SMALL, seed=1)
    model.load(path)
    for name, value in trained.detector.network.state_dict().items():
        assert torch.equal(value, model.detector.network.state_dict()[name])
    with pytest.warns(UserWarning, match="overlap no anchor"):
        other = gd.RetinaNet(data, **SMALL | {"scales": (1.0,)})
    with pytest.raises(ModelError, match="anchors"):
        other.load(path)


def test_a_refused_load_changes_nothing(trained: gd.RetinaNet, data: gd.DetectionData, tmp_path: Path) -> None:
    path = trained.save(tmp_path / "squares.safetensors")
    other = gd.RetinaNet(data, **SMALL | {"backbone": "resnet34"})
    before = {name: value.clone() for name, value in other.detector.network.state_dict().items()}
    with pytest.raises(ModelError, match="backbone: resnet18, here resnet34"):
        other.load(path)
    assert all(torch.equal(value, before[name]) for name, value in other.detector.network.state_dict().items())


def test_going_on_with_other_data_is_a_detector_for_them(
    trained: gd.RetinaNet, data: gd.DetectionData, tmp_path: Path
) -> None:
    path = trained.save(tmp_path / "squares.safetensors")
    other = replace(data, pixel_size_m=0.4, bands=(3, 2, 1), chip_size=96)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        detector = gd.RetinaNet.from_model(path, other).detector
    assert [str(each.message).partition("safetensors ")[2] for each in told] == [
        "was trained on the bands (1, 2, 3); it goes on with (3, 2, 1)",
        "was trained on pixels of 0.5 m; it goes on with pixels of 0.4 m",
    ]
    assert (detector.bands, detector.pixel_size_m, detector.chip_size, detector.overlap) == ((3, 2, 1), 0.4, 96, 24)
    model = gd.RetinaNet(replace(data, bands=(3, 2, 1)), **SMALL)
    with pytest.warns(UserWarning, match="trained on the bands"):
        model.load(path)


def test_predictions_of_an_array_and_of_a_file_have_the_same_floors(
    trained: gd.RetinaNet, data: gd.DetectionData, tmp_path: Path
) -> None:
    model = gd.RetinaNet.from_model(trained.save(tmp_path / "squares.safetensors"))
    model.detector.min_score = {"blue": 1.0, "red": 1.0}
    assert set(model.predict(data.valid[0].pixels, min_score={"red": 0.05})["label"]) <= {"red"}


def test_predict_says_where_bands_belong_and_leaves_masked_pixels_out(
    trained: gd.RetinaNet, data: gd.DetectionData
) -> None:
    pixels = data.valid[0].pixels
    with pytest.raises(ModelError, match=r"bands seem to come last, and np\.moveaxis\(pixels, -1, -3\) puts"):
        trained.predict(np.moveaxis(pixels, 0, -1))
    masked = np.ma.masked_array(pixels, np.broadcast_to(np.arange(pixels.shape[1])[:, None] < 20, pixels.shape))
    empty = np.where(masked.mask, np.nan, pixels.astype(np.float32))
    assert_geodataframe_equal(trained.predict(masked, min_score=0.05), trained.predict(empty, min_score=0.05))


def test_scores_and_pictures(trained: gd.RetinaNet) -> None:
    scores = trained.average_precision_score()
    assert set(scores) == {"blue", "red"}
    assert all(np.isnan(score) or 0 <= score <= 1 for score in scores.values())
    assert isinstance(trained.average_precision_score(mean=True), float)
    assert len(trained.plot_losses().axes) == 2
    assert trained.show_results(rows=1).axes


@pytest.mark.parametrize(
    ("weights", "freeze", "kept"), [("imagenet", None, True), ("imagenet", False, False), (None, None, False)]
)
def test_batch_norms_of_a_pretrained_backbone_are_frozen(
    few: gd.DetectionData, weights: str | None, freeze: bool | None, kept: bool
) -> None:
    model = gd.RetinaNet(
        few, backbone="efficientnet_lite0", size="small", scales="auto", weights=weights, freeze=freeze
    )
    backbone = model.detector.network.backbone
    norms = torch.nn.ModuleList(layer for layer in backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    before, first = copy.deepcopy(norms.state_dict()), next(backbone.parameters()).clone()
    model.fit(1, progress=False, checkpoint=False)
    assert not torch.equal(next(backbone.parameters()), first)
    assert all(torch.equal(before[name], value) for name, value in norms.state_dict().items()) == kept


def test_tuning_sees_what_inference_gives(trained: gd.RetinaNet) -> None:
    chip = max(trained.data.valid, key=lambda chip: len(chip.boxes))
    detector = trained.detector.frozen("float32")  # scores in bf16 are often equal, and either box may stay then
    raw, direct = (detector.detect(chip.pixels[None], min_score=0.005, nms_iou=limit)[0] for limit in (1.0, 0.4))
    again = suppress(raw, 0.4)
    assert len(again) < len(raw)
    assert sorted(map(tuple, again.xyxy)) == sorted(map(tuple, direct.xyxy))
    before = trained.detector.min_score
    table = trained.tune()
    assert trained.detector.min_score == pytest.approx(dict(table["min_score"].loc[0.5]))
    # The suppression of inference, on the same chips: the best scores are those of training, up to ties.
    assert table["f1"].loc[0.5].between(0, 1).all()
    assert set(before) == set(trained.detector.min_score)


def test_errors_are_shown(trained: gd.RetinaNet) -> None:
    assert len(trained.show_errors(rows=1).subfigs) == 2
    with pytest.raises(ArgumentError, match="rows must be a whole number of at least 1"):
        trained.show_errors(rows=0)


def test_interrupting_leaves_the_best_weights(few: gd.DetectionData) -> None:
    class Interrupt(Callback):  # type: ignore[misc]
        order = 99

        def after_epoch(self) -> None:
            if self.epoch == 1:
                raise KeyboardInterrupt

    model = gd.RetinaNet(few, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        model.fit(5, lr=1e-3, callbacks=[Interrupt()], progress=False)
    assert model.detector.detect(few.train[0].pixels[None]) is not None
    model.fit(1, lr=1e-3, progress=False)


def test_callbacks_are_given_raw_outputs(one_epoch: tuple[gd.RetinaNet, Look]) -> None:
    n_anchors = 9 * (8 * 8 + 4 * 4 + 2 * 2 + 1 + 1)  # of a chip of 64 px, at P3 to P7
    assert one_epoch[1].shapes[0] == ((4, n_anchors, 2), (4, n_anchors, 4))


def test_a_loss_that_is_no_number_stops_with_a_sentence(data: gd.DetectionData) -> None:
    model = gd.RetinaNet(data, **SMALL)
    with pytest.raises(TrainingError, match="batch"):
        model.fit(3, lr=1e12, one_cycle=False, progress=False, checkpoint=False)


def test_anchors_that_miss_the_objects_are_said_once(data: gd.DetectionData) -> None:
    with pytest.warns(UserWarning, match='scales="auto"'):
        gd.RetinaNet(data, backbone="resnet18", weights=None, size="small")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = gd.RetinaNet(data, **SMALL)
    assert model.detector.network.architecture.anchors.anchor_size < 4


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"backbone": "resnet19"}, "resnet18"),
        ({"scales": "some"}, '"auto"'),
        ({"scales": (-1,)}, "above 0"),
        ({"weights": "nothing.safetensors"}, "nothing.safetensors"),
        ({"backbone": 18}, "backbone must be a name; got 18"),
        ({"scales": 1.0}, "scales must be a list of numbers"),
        ({"ratios": 0.5}, "ratios must be a list of numbers"),
        ({"ratios": ("1", "2")}, "ratios must be a list of numbers"),
        ({"anchor_size": None}, "anchor_size must be a number above 0"),
        ({"levels": 3}, "levels must be a list of numbers"),
        ({"box_weight": -1}, "box_weight must be a number of at least 0; got -1"),
        ({"box_weight": "2"}, "box_weight must be a number"),
        ({"focal_alpha": 25}, "focal_alpha must lie between 0 and 1; got 25"),
        ({"focal_gamma": "2"}, "focal_gamma must be a number of at least 0; got '2'"),
        ({"giou": "no"}, "giou must be True or False; got 'no'"),
        ({"freeze": "no"}, "freeze must be True or False; got 'no'"),
        ({"seed": 1.5}, "seed must be a whole number of at least 0; got 1.5"),
    ],
)
def test_bad_parameters_of_the_model(data: gd.DetectionData, keywords: dict[str, object], told: str) -> None:
    with pytest.raises(GeodetectError, match=told):
        gd.RetinaNet(data, **(SMALL | keywords))


def test_weights_are_read_before_anchors_are_fitted(data: gd.DetectionData) -> None:
    with pytest.raises(ArgumentError, match=r'"imagenet", "coco".* no file imagenett'):
        gd.RetinaNet(data, weights="imagenett", scales="neither a word nor numbers")


def test_a_folder_is_no_data() -> None:
    with pytest.raises(ArgumentError, match=r"data must be .*prepare_data\(...\).*; got 'chips'"):
        gd.RetinaNet("chips")


@pytest.mark.parametrize(
    "keywords",
    [
        {"epochs": 0},
        {"epochs": "3"},
        {"epochs": True},
        {"lr": -1},
        {"lr": "1e-3"},
        {"monitor": "accuracy"},
        {"callbacks": None},
        {"callbacks": [print]},
        {"early_stopping": 3},
        {"one_cycle": "no"},
        {"resume": "no"},
    ],
)
def test_bad_parameters_of_fit(trained: gd.RetinaNet, keywords: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        trained.fit(**keywords)


def test_callbacks_that_cannot_work_are_refused_before_training(trained: gd.RetinaNet) -> None:
    with pytest.raises(ArgumentError, match=r"EarlyStoppingCallback can monitor .*valid_loss, AP50; got 'accuracy'"):
        trained.fit(1, callbacks=[EarlyStoppingCallback(monitor="accuracy")])
    with pytest.raises(ArgumentError, match=r"MixUp .*cannot mix boxes; leave it out"):
        trained.fit(1, callbacks=[MixUp()])


def test_graphs_are_left_out_where_there_is_no_bar(one_epoch: tuple[gd.RetinaNet, Look]) -> None:
    assert one_epoch[0].detector.summary["epochs"] == 1


def test_parts_of_epochs_count_as_epochs(few: gd.DetectionData) -> None:
    model = gd.RetinaNet(few, **SMALL)
    model.fit(2, monitor="AP50", callbacks=[ShortEpochCallback(pct=0.1)], progress=False)
    assert model.detector.summary["epochs"] == 2
    assert np.shape(model.learner.recorder.values) == (2, 3)
    assert model.detector.summary["AP50"] == max(float(row[2]) for row in model.learner.recorder.values)


@pytest.mark.parametrize(("n_valid", "monitor"), [(0, "valid_loss"), (2, "AP50")])
def test_an_unknown_monitor_is_a_warning_and_never_stops_early(
    data: gd.DetectionData, n_valid: int, monitor: str
) -> None:
    background = [plan for plan in (*data.train.plans, *data.valid.plans) if not len(plan.boxes)][:n_valid]
    assert len(background) == n_valid
    model = gd.RetinaNet(replace(data, train=data.train[:4], valid=gd.chips.Chips(background)), **SMALL)
    with pytest.warns(UserWarning, match=f"no validation chip.*{monitor} is unknown.*hold out more chips"):
        model.fit(patience(7) + 2, monitor=monitor, early_stopping=True, progress=False)
    assert model.detector.summary["epochs"] == patience(7) + 2


def test_a_saved_model_goes_on_with_its_loss(few: gd.DetectionData, tmp_path: Path) -> None:
    model = gd.RetinaNet(few, **SMALL, giou=True, box_weight=2, focal_gamma=1.5)
    model.fit(1, progress=False)
    assert {"giou": True, "box_weight": 2, "focal_gamma": 1.5}.items() <= model.detector.facts.items()
    again = gd.RetinaNet.from_model(model.save(tmp_path / "saved.safetensors"), few)
    assert again.learner.loss_func.loss == model.learner.loss_func.loss
    usual = gd.RetinaNet(few, **SMALL, giou=False)  # the paper's loss is what a file without one has
    usual.fit(1, progress=False)
    assert usual.detector.summary.keys() == {"epochs", "valid_loss", "AP50"}


def test_backbones_are_listed() -> None:
    assert {"resnet18", "resnet50", "vgg16_bn", "efficientnet_b0"} <= set(gd.RetinaNet.backbones())


def test_it_detects_in_a_scene(trained: gd.RetinaNet, scenes: dict[str, PaintedScene], tmp_path: Path) -> None:
    found = trained.detect(scenes["upright"].path, min_score=0.05, progress=False)
    assert list(found.columns) == ["label", "score", "geometry"]
    path = gd.detect_objects(scenes["upright"].path, trained, tmp_path / "found.gpkg", progress=False)
    assert path.exists()


def test_it_predicts_a_file_and_an_array(trained: gd.RetinaNet, data: gd.DetectionData, upright: PaintedScene) -> None:
    from_file = trained.predict(upright.path, min_score=0.05)
    assert from_file.crs == upright.grid.crs
    from_array = trained.predict(data.train[0].pixels, min_score=0.05)
    assert from_array.crs is None
    assert list(from_array.columns) == ["label", "score", "geometry"]


@pytest.mark.parametrize("image", [None, [[1, 2]], np.zeros((64, 64), np.uint8)])
def test_what_is_no_picture_is_not_predicted(trained: gd.RetinaNet, image: object) -> None:
    with pytest.raises(ArgumentError, match="image must be the path of a raster, or an array"):
        trained.predict(image)


def test_it_exports_a_program(trained: gd.RetinaNet, tmp_path: Path) -> None:
    assert trained.export(tmp_path / "squares.pt2").stat().st_size > 1000
    with pytest.raises(OutputError, match="pt2"):
        trained.export(tmp_path / "squares.h5")


def test_coco_scores_of_each_class_and_all(trained: gd.RetinaNet) -> None:
    table = trained.evaluate()
    assert list(table.index) == ["blue", "red", "all"]
    assert list(table.columns) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR"]
    assert table.loc["all", "AP"] == pytest.approx(table["AP"][:2].mean(), nan_ok=True)
    assert table["AP50"][:2].to_dict() == pytest.approx(trained.average_precision_score(), abs=1e-9, nan_ok=True)
