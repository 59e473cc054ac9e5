"""The demo, whole: the figures that its users are promised, in held-out ground."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import pytest
from click.testing import CliRunner

from geodetect.cli.main import main


@pytest.mark.slow
def test_the_demo_finds_pools_and_cars(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(main, ["demo", str(out)])
    assert result.exit_code == 0, result.output
    told = [line.removeprefix("AP50 ") for line in result.output.splitlines() if line.startswith("AP50 ")]
    scores = dict(line.split(": ") for line in told)
    assert float(scores["pool"]) >= 0.85, told
    assert float(scores["car"]) >= 0.5, told
    counts = {len(gpd.read_file(out / f"found{suffix}")) for suffix in (".gpkg", ".geojson", ".shp")}
    assert len(counts) == 1
    assert (out / "found.png").stat().st_size > 100_000
    assert "suburb_test.tif" in (out / "found.html").read_text(encoding="utf-8")


def test_the_demo_says_where_it_cannot_write(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    result = CliRunner().invoke(main, ["demo", str(taken)])
    assert result.exit_code == 1
    assert "choose another" in result.stderr


def test_the_demo_says_first_what_it_does_and_how_long_it_takes(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", str(tmp_path / "demo"), "--epochs", "7", "--seed", "-1"])
    assert result.exit_code == 1
    first = result.stdout.splitlines()[0]
    assert all(fact in first for fact in ("synthetic", "7 epochs", "5 s each", str(tmp_path / "demo")))
