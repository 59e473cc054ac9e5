"""Painted scenes on disk, written once for all tests; see `tests.fakes` for what they hold."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
from hypothesis import settings

from geodetect.grid import Grid
from tests.fakes import SHAPE, TRANSFORMS, TRUTH, UTM, PaintedScene, painted, write_raster
from tests.real_data import REAL_DATA

# Time limits on examples say how busy the machine is, not whether a law holds.
settings.register_profile("geodetect", deadline=None)
settings.load_profile("geodetect")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PaintedScene]:
    """The painted scene upright, rotated and south up."""
    folder = tmp_path_factory.mktemp("scenes")
    grids = {name: Grid(SHAPE, place, UTM, f"{name}.tif") for name, place in TRANSFORMS.items()}
    return {
        name: PaintedScene(write_raster(folder / f"{name}.tif", painted(), grid), grid, TRUTH)
        for name, grid in grids.items()
    }


@pytest.fixture(params=list(TRANSFORMS))
def scene(request: pytest.FixtureRequest, scenes: dict[str, PaintedScene]) -> PaintedScene:
    """Each of the painted scenes in turn."""
    return scenes[request.param]


@pytest.fixture
def upright(scenes: dict[str, PaintedScene]) -> PaintedScene:
    """The painted scene with north up."""
    return scenes["upright"]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; skips where it is not there."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}; GEODETECT_DATA names another folder")
    return REAL_DATA


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network: what torch downloads with fails as it does there."""

    def fail(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
