"""The plugin for QGIS: what is packed, and what its algorithms do in QGIS itself."""

from __future__ import annotations

import ast
import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyogrio
import pytest
import shapely

import geodetect
from geodetect.cli.main import main
from geodetect.scene import detect_objects
from tests.fakes import PaintedScene

ROOT = Path(__file__).resolve().parents[1]
# Debian's script `qgis_process` hands the program an option that this does not know.
QGIS_PROCESS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
DEBIANS_PYTHON = "/usr/bin/python3"  # which QGIS' packages install for
TRAINING = "--backbone resnet18 --weights none --scales auto --split random --val-split-pct 0.4 --num-workers 0"
LOWEST = 0.005  # a network that has learnt next to nothing is sure of nothing


def packed(path: Path) -> Path:
    """The plugin as the command packs it."""
    main(["qgis", str(path)], standalone_mode=False)
    return path


def test_the_plugin_is_packed_as_qgis_wants_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = packed(tmp_path / "plugin.zip")
    assert "Install from ZIP" in capsys.readouterr().out
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {name.partition("/")[0] for name in files} == {"geodetect_qgis"}
    assert files["geodetect_qgis/python.txt"] == sys.executable
    metadata = configparser.ConfigParser()
    metadata.read_string(files["geodetect_qgis/metadata.txt"])
    general = metadata["general"]
    assert (general["name"], general["version"]) == ("geodetect", geodetect.__version__)
    assert (general["qgisMinimumVersion"], general["hasProcessingProvider"]) == ("3.22", "yes")
    assert f"geodetect_qgis/{general['icon']}" in files
    for name, text in files.items():
        if name.endswith(".py"):
            ast.parse(text, feature_version=(3, 9))  # QGIS 3.22 on Windows
            assert "import geodetect" not in text


@pytest.mark.parametrize("name", ["plugin.tar", "absent/plugin.zip"])
def test_the_plugin_is_not_packed_anywhere(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["qgis", str(tmp_path / name)])
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of QGIS' settings, with the plugin in it; skips where QGIS is not installed."""
    if QGIS_PROCESS is None or subprocess.run([DEBIANS_PYTHON, "-c", "import qgis.core"], check=False).returncode:
        pytest.skip("QGIS is not installed (apt-get install qgis python3-qgis)")
    folder = tmp_path_factory.mktemp("qgis")
    plugins = folder / "profiles" / "default" / "python" / "plugins"
    with zipfile.ZipFile(packed(folder / "plugin.zip")) as archive:
        archive.extractall(plugins)
    return folder


def environment(profile: Path) -> dict[str, str]:
    """What QGIS is started with: its settings, no screen, and its own Python before those of any environment.

    QGIS starts the Python beside the first `python3` of PATH, and dies if it is that of a virtual environment.
    """
    path = os.pathsep.join((str(Path(DEBIANS_PYTHON).parent), os.environ["PATH"]))
    ours = {"QGIS_CUSTOM_CONFIG_PATH": str(profile), "QT_QPA_PLATFORM": "offscreen", "PATH": path}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ours


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program geodetect of this checkout, under a name with a blank."""
    path = tmp_path_factory.mktemp("pro gram") / "geodetect"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m geodetect "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def run_in_qgis(profile: Path, program: Path, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What algorithms give and say in QGIS."""
    request = profile / "request.json"
    misleading = {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}  # as QGIS sets them on Windows and macOS
    plugins = profile / "profiles" / "default" / "python" / "plugins"
    told = {"plugins": str(plugins), "program": str(program), "environment": misleading, "runs": runs}
    request.write_text(json.dumps(told), encoding="utf-8")
    command = [DEBIANS_PYTHON, str(ROOT / "tests" / "in_qgis.py"), str(request)]
    ended = subprocess.run(
        command, env=environment(profile), capture_output=True, check=False, encoding="utf-8", timeout=900
    )
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout.splitlines()[-1])
    assert answer["usual"] == [sys.executable, "-m", "geodetect"]
    runs_done: list[dict[str, Any]] = answer["runs"]
    return runs_done


def labels_layer(scene: PaintedScene, kind: str = "Polygon") -> dict[str, Any]:
    """The squares of a scene as a layer in memory, whose classes stand in the column `colour`."""
    features = [[row.geometry.wkt, [k, row.label]] for k, row in enumerate(scene.truth.itertuples())]
    # A column `fid` whose values are alike would be taken for the numbers of a GeoPackage's rows.
    fields = "field=fid:integer&field=colour:string"
    return {"name": "Häuser: 2", "kind": kind, "crs": "EPSG:32645", "fields": fields, "features": features}


@pytest.fixture(scope="module")
def model(
    profile: Path, program: Path, scenes: dict[str, PaintedScene], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model that QGIS has trained, on labels of a layer in memory."""
    scene = scenes["upright"]
    path = tmp_path_factory.mktemp("Modèle 1") / "model.safetensors"
    parameters = {"CLASS_FIELD": "colour", "EPOCHS": 2, "CHIP_SIZE": 64, "EXTRA": TRAINING, "OUTPUT": str(path)}
    raster = {"raster": str(scene.path), "name": "scene"}
    layers = {"INPUT": raster, "LABELS": labels_layer(scene)}
    (answer,) = run_in_qgis(
        profile, program, [{"algorithm": "geodetect:train", "parameters": parameters, "layers": layers}]
    )
    assert answer["results"] == {"OUTPUT": str(path)}, answer
    assert answer["said"]["progress"][:2] == [50, 100]
    console = "\n".join(answer["said"]["console"])
    assert "AP50" in console
    assert f"Wrote {path}" in console
    return path


@pytest.mark.slow
def test_a_model_knows_the_classes_of_the_layer(model: Path) -> None:
    detector = geodetect.load_detector(model, device="cpu")
    assert detector.classes == ["blue", "red"]  # the last label, not saved in its layer, is one of them
    assert detector.chip_size == 64


@pytest.mark.slow
def test_qgis_finds_what_the_command_line_finds(
    profile: Path, program: Path, model: Path, scenes: dict[str, PaintedScene], tmp_path: Path
) -> None:
    scene = scenes["upright"]
    areas = tmp_path / "Flächen ü.gpkg"
    shapes = gpd.GeoDataFrame({"keep": [1, 0]}, geometry=[scene_part(scene, 0, 0.5), scene_part(scene, 0, 1)],
                              crs=scene.grid.crs)  # fmt: skip
    shapes.to_file(areas, layer="other")
    shapes.to_file(areas, layer="areas")
    drawn = {
        "name": "drawn", "kind": "Polygon", "crs": "EPSG:32645",
        "features": [[scene_part(scene, 0, 0.1).wkt, []], [scene_part(scene, 0.1, 0.5).wkt, []]],
    }  # fmt: skip
    west, south, east, north = gpd.GeoSeries([scene_part(scene, 0, 0.5)], crs=scene.grid.crs).to_crs(4326).total_bounds
    asked = {"INPUT": str(scene.path), "MODEL": str(model), "MIN_SCORE": LOWEST}
    told: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "all": ({"SHOWN": 0.01}, {}),
        "filtered": ({}, {"AREA": {"source": f"{areas}|layername=areas", "name": "areas", "filter": "keep = 1"}}),
        "unsaved": ({}, {"AREA": drawn}),
        "extent": ({"EXTENT": f"{west},{east},{south},{north} [EPSG:4326]"}, {}),
        "options": ({"EXTRA": "--bands 3,2,1 --aoi 'no such file.gpkg'"}, {}),
    }
    runs = [
        {"algorithm": "geodetect:detect", "parameters": {**asked, **more, "OUTPUT": str(tmp_path / f"{name}.gpkg")},
         "layers": layers}
        for name, (more, layers) in told.items()
    ]  # fmt: skip
    answers = dict(zip(told, run_in_qgis(profile, program, runs), strict=True))
    every = detect_objects(scene.path, model, min_score=LOWEST, device="cpu", progress=False)
    west_half = detect_objects(
        scene.path, model, min_score=LOWEST, aoi=scene_part(scene, 0, 0.5), device="cpu", progress=False
    )
    assert 0 < len(west_half) < len(every)
    for name, due in {"all": every, "filtered": west_half, "unsaved": west_half, "extent": west_half}.items():
        answer = answers[name]
        assert answer.get("error") is None, answer
        assert answer["said"]["progress"][-1] == 100
        found = gpd.read_file(tmp_path / f"{name}.gpkg", layer=name)
        if name == "extent":  # along meridians and parallels, which cut a little off the east
            assert len(due) <= len(found)
            assert found.centroid.distance(scene_part(scene, 0, 0.5)).max() < 3  # m
        else:
            assert shapely.equals_exact(found.geometry.array, due.geometry.array, 1e-6).all()
    (shown,) = answers["all"]["loaded"]
    assert shown == {"labels": ["blue", "red"], "filter": '"score" >= 0.01', "n": (every["score"] >= 0.01).sum()}
    (shown,) = answers["filtered"]["loaded"]
    assert (shown["filter"], shown["n"]) == ("", len(west_half))
    assert "no such file.gpkg" in answers["options"]["error"]


def scene_part(scene: PaintedScene, first: float, last: float) -> shapely.Polygon:
    """The ground of a scene between two shares of its width."""
    x1, y1, x2, y2 = scene.grid.bounds
    return shapely.box(x1 + first * (x2 - x1), y1, x1 + last * (x2 - x1), y2)


@pytest.mark.slow
def test_what_cannot_be_is_one_sentence(
    profile: Path, program: Path, model: Path, scenes: dict[str, PaintedScene], tmp_path: Path
) -> None:
    scene = scenes["upright"]
    tiles = "type=xyz&zmin=0&zmax=5&url=http://127.0.0.1:1/{z}/{x}/{y}.png"
    asked = {"INPUT": str(scene.path), "MODEL": str(model), "OUTPUT": str(tmp_path / "found.gpkg")}
    empty = {"name": "empty", "kind": "Polygon", "crs": "EPSG:32645", "features": []}
    told: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "tiles is not a raster file but a layer of the kind 'wms'": (
            {},
            {"INPUT": {"raster": tiles, "name": "tiles", "provider": "wms"}},
        ),
        "absent.safetensors": ({"MODEL": str(tmp_path / "absent.safetensors")}, {}),
        "empty has no features": ({}, {"AREA": empty}),
        "expected a layer or an extent, got both": ({"EXTENT": "0,1,0,1 [EPSG:4326]"}, {"AREA": labels_layer(scene)}),
        "No such option": ({"EXTRA": "--no-such-option"}, {}),
        ".dxf": ({"OUTPUT": str(tmp_path / "found.dxf")}, {}),
    }
    runs = [
        {"algorithm": "geodetect:detect", "parameters": asked | more, "layers": layers}
        for more, layers in told.values()
    ]
    for due, answer in zip(told, run_in_qgis(profile, program, runs), strict=True):
        *heading, said = answer["error"].splitlines()
        assert due in said
        assert heading in ([], ["Unable to execute algorithm"])  # QGIS' own, before what the form says
    no_program = profile / "no program"
    no_program.write_text("not to be run", encoding="utf-8")
    (lost,) = run_in_qgis(profile, no_program, runs[1:2])
    assert "no program cannot be started" in lost["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_cancelling_ends_geodetect(
    profile: Path, program: Path, scenes: dict[str, PaintedScene], tmp_path: Path
) -> None:
    scene = scenes["upright"]
    path = tmp_path / "cancelled.safetensors"
    parameters = {"INPUT": str(scene.path), "CLASS_FIELD": "colour", "EPOCHS": 10_000, "CHIP_SIZE": 64,
                  "EXTRA": TRAINING, "OUTPUT": str(path)}  # fmt: skip
    layers = {"LABELS": labels_layer(scene)}
    told = {"algorithm": "geodetect:train", "parameters": parameters, "layers": layers, "cancel_at": 0.01}
    (answer,) = run_in_qgis(profile, program, [told])
    assert answer["said"]["progress"][0] == pytest.approx(0.01)  # the first of 10,000 epochs
    running = [each.read_bytes() for each in Path("/proc").glob("[0-9]*/cmdline") if readable(each)]
    assert not any(path.name.encode() in each for each in running)
    assert not path.exists()


def readable(path: Path) -> bool:
    """Whether a process is still there to be asked."""
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_qgis_process_runs_the_plugin(
    profile: Path, model: Path, scenes: dict[str, PaintedScene], tmp_path: Path
) -> None:
    """As somebody does who has installed the zip file: nothing is set, geodetect is where the plugin was packed."""
    subprocess.run([QGIS_PROCESS, "plugins", "enable", "geodetect_qgis"], env=environment(profile), check=True)
    output = tmp_path / "found.gpkg"
    values = {"INPUT": scenes["upright"].path, "MODEL": model, "MIN_SCORE": LOWEST, "OUTPUT": output}
    arguments = [f"--{name}={value}" for name, value in values.items()]
    command = [QGIS_PROCESS, "run", "geodetect:detect", *arguments]
    ended = subprocess.run(command, env=environment(profile), capture_output=True, text=True, check=False, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Wrote" in ended.stdout
    assert pyogrio.list_layers(output)[:, 0].tolist() == ["found", "searched", "layer_styles"]
