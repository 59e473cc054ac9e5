"""A short version of the benchmark on real imagery, when present: the whole way holds together there too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent / "benchmarks" / "banepa.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*overlap no anchor")
def test_two_minutes_of_training_find_some_buildings(real_data: Path) -> None:
    spec = importlib.util.spec_from_file_location("banepa", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    banepa = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(banepa)
    scene = real_data / "scenes" / "banepa"
    raster, labels = scene / "banepa_utm45n_15cm.tif", scene / "buildings_4326.geojson"
    west, _ = banepa.halves(raster)
    # Mapped and scored on the ground that it learns from: the ground that is scored in earnest stays closed.
    model = banepa.train(banepa.ground(raster, labels, west, seed=0), epochs=6, seed=0)
    result = banepa.score(model, raster, labels, west)
    assert result.table.loc["all", "ap"] > 0.1
    assert result.table.loc["all", "tp"] + result.table.loc["all", "fn"] > 900
