"""`~` wherever a path is taken, and names that only look like it."""

from __future__ import annotations

from pathlib import Path

import pytest

import geodetect as gd
from geodetect import load_detector
from geodetect.addresses import expand_user
from geodetect.errors import GeodetectError
from geodetect.export import export
from tests.fakes import PaintDetector, PaintedScene, trained
from tests.test_detector import make

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated",  # fastai, on import
    "ignore:9 objects .* in no chip. 1 under 2 px",  # on the corner of four windows
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upright: PaintedScene) -> Path:
    """A home folder with a scene and labels, while we work in another one."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(elsewhere)
    (folder / "scene.tif").write_bytes(upright.path.read_bytes())
    upright.truth.to_file(folder / "truth.gpkg")
    return folder


def test_only_what_names_a_home_is_expanded(home: Path) -> None:
    assert expand_user("~/a b/c.tif") == expand_user(Path("~/a b/c.tif")) == f"{home}/a b/c.tif"
    for name in ("", "a~/c.tif", "./~/c.tif", "~nobody-of-this-name/c.tif", "~$draft.gpkg", "https://a.org/~me/c.tif"):
        assert expand_user(name) == name


def test_every_door_expands(home: Path) -> None:
    scene, truth = "~/scene.tif", "~/truth.gpkg"
    folder = gd.export_training_data(scene, truth, "~/chips", chip_size=64, aoi=truth, progress=False)
    assert folder == home / "chips"
    data = gd.prepare_data("~/chips", valid_path="~/chips")
    assert len(gd.prepare_data(["~/scene.tif"], "~/*.gpkg", chip_size=64).train)
    found = gd.detect_objects("~/s*.tif", PaintDetector(), Path("~/found.gpkg"), aoi="~/truth.gpkg", progress=False)
    assert found == home / "found.gpkg"
    result = gd.compute_accuracy("~/found.gpkg", "~/truth.gpkg|layername=truth", aoi="~/truth.gpkg")
    assert result.save("~/accuracy.csv") == home / "accuracy.csv"
    gd.show(scene, truth, aoi=truth)
    assert gd.view(scene, "~/found.gpkg", truth).save("~/page.html") == home / "page.html"
    learner = gd.RetinaNet(data, backbone="resnet18", weights=None, scales="auto")
    trained(learner.detector.network)
    assert learner.save("~/model.safetensors") == home / "model.safetensors"
    gd.RetinaNet(data, backbone="resnet18", weights="~/model.safetensors", scales="auto").load("~/model.safetensors")
    gd.RetinaNet.from_model("~/model.safetensors")
    gd.detect_objects(scene, "~/model.safetensors", progress=False)
    assert list(Path().iterdir()) == []


def test_models_are_saved_and_exported_at_home(home: Path) -> None:
    detector = make()
    assert detector.save("~/model.safetensors") == home / "model.safetensors"
    assert load_detector("~/model.safetensors").classes == detector.classes
    assert export(detector, "~/model.pt2") == home / "model.pt2"


def test_messages_name_the_file_that_was_looked_for(home: Path) -> None:
    for ask in (
        lambda: gd.prepare_data("~/gone.tif", "~/truth.gpkg"),
        lambda: gd.prepare_data("~/scene.tif", "~/gone.gpkg"),
        lambda: gd.prepare_data("~/gone"),
        lambda: gd.compute_accuracy("~/truth.gpkg", "~/truth.gpkg", aoi="~/gone.shp"),
        lambda: load_detector("~/gone.safetensors"),
        lambda: gd.detect_objects("~/scene.tif", PaintDetector(), "~/gone/found.gpkg"),
        lambda: gd.export_training_data("~/scene.tif", "~/truth.gpkg", "~/gone/chips"),
    ):
        with pytest.raises(GeodetectError, match=f"{home}/gone"):
            ask()
