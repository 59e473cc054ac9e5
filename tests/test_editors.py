"""What editors and type checkers know of a package whose names load on first use."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import jedi
import pytest

import geodetect
from geodetect.scene.options import DetectOptions

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """\
import geodetect as gd

data = gd.prepare_data("town.tif", labels="houses.gpkg", chip_size=256)
reveal_type(data)
model = gd.RetinaNet(data, backbone="resnet18")
reveal_type(model.fit(20, lr=1e-3))
reveal_type(model.save("houses.safetensors"))
reveal_type(gd.RetinaNet.from_model("houses.safetensors"))
reveal_type(gd.load_detector("houses.safetensors").chip_size)
reveal_type(gd.compute_accuracy("found.gpkg", "truth.gpkg").best_score)
reveal_type(gd.boxes.Boxes.empty())
found = gd.detect_objects("county.tif", model)
reveal_type(found)
reveal_type(model.detect("county.tif", "found.gpkg", tta=True))
reveal_type(gd.detect_objects("county.tif", model, output=["found.gpkg", "found.csv"]))
gd.prepare_data("town.tif", chipsize=256)
model.fit(epoch=3)
gd.detect_objects("county.tif", model, min_scores=0.5)
model.detect("county.tif", overlaps=64)
gd.load_detector("houses.safetensors").chip_sizes
gd.prepare_date("town.tif")
"""


def imported_for_checkers() -> set[str]:
    """The names that `geodetect/__init__.py` imports for type checkers."""
    tree = ast.parse((ROOT / "geodetect" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_checkers_see_the_names_that_load_on_first_use() -> None:
    assert imported_for_checkers() == {*geodetect._HOMES, *geodetect._ROOMS}
    assert {*geodetect._HOMES, *geodetect._ROOMS} <= set(dir(geodetect))
    assert (ROOT / "geodetect" / "py.typed").is_file()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("gd.det", {"detect_objects", "detector"}),
        ("gd.prepare_data('town.tif', chip", {"chip_size="}),
        ("gd.RetinaNet.from_model('houses.safetensors').f", {"fit", "freeze"}),
        ("gd.prepare_data('town.tif').desc", {"describe"}),
    ],
)
def test_names_complete(typed: str, offered: set[str]) -> None:
    script = jedi.Script(f"import geodetect as gd\n{typed}", project=jedi.Project(ROOT))
    assert offered <= {each.name for each in script.complete()}


def test_checkers_know_every_option_of_a_detection() -> None:
    parameters = inspect.signature(geodetect.detect_objects).parameters.values()
    named = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert set(DetectOptions.__annotations__) == named


@pytest.mark.slow
def test_a_script_is_checked_against_the_signatures(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    options = ["--follow-imports=silent", "--ignore-missing-imports", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, "--cache-dir", str(tmp_path / "cache"), "script.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False).stdout
    assert re.findall(r'Revealed type is "(.*)"', told) == [
        "geodetect.chips.data.DetectionData",
        "None",
        "pathlib.Path",
        "geodetect.learner.retinanet.RetinaNet",
        "int",
        "float",
        "geodetect.boxes.boxes.Boxes",
        "Any",  # geopandas tells no types
        "pathlib.Path",
        "list[pathlib.Path]",
    ]
    found: dict[str, str] = {}
    for number, message in re.findall(r"^script.py:(\d+): error: (.*?)  \[", told, re.MULTILINE):
        found[number] = found.get(number, "") + message
    faults = ["chipsize", "epoch", "min_scores", "overlaps", "chip_sizes", "prepare_date"]
    places = [number for number, line in enumerate(SCRIPT.splitlines(), 1) if any(fault in line for fault in faults)]
    assert [int(number) for number in found] == places
    for fault, message in zip(faults, found.values(), strict=True):
        assert f'"{fault}"' in message
