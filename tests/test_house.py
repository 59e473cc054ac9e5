"""What holds for the package as a whole: floors, sizes, names, documentation, dependencies, what the README says."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import geodetect

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "geodetect").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

PUBLIC = {
    "Boxes",
    "Detector",
    "RetinaNet",
    "compute_accuracy",
    "detect_objects",
    "export_training_data",
    "load_detector",
    "prepare_data",
    "published",
    "show",
    "view",
}
FORBIDDEN_FILES = {"utils", "util", "helpers", "helper", "misc", "common", "config"}
# Where **kwargs are handed on whole to one named call, and to which.
KWARGS = {
    "cli/chips.py:chips": "export_training_data",
    "cli/train.py:train": "prepare_data, RetinaNet and fit, split by their signatures",
    "cli/detect.py:detect": "detect_objects",
    "cli/evaluate.py:evaluate": "compute_accuracy",
    "cli/view.py:view": "the function of the same name",
    "learner/retinanet.py:RetinaNet.detect": "detect_objects",
    "export/raster_function.py:GeodetectDetector.initialize": "taken, not handed on: ArcGIS calls it so",
    "export/raster_function.py:GeodetectDetector.getConfiguration": "likewise",
    "export/raster_function.py:GeodetectDetector.vectorize": "likewise",
}
CONDA_NAMES = {"torch": "pytorch"}
CONDA_ONLY = {"pip": "", "gdal": ""}  # gdal: its programs, and one build of the library for all that use it

# What is shortened before the README's code and the notebooks run; each must be there.
README_REPLACEMENTS = {"fit(20)": "fit(1)", "fit(55, ": "fit(1, "}
NOTEBOOK_EPOCHS = r"\bEPOCHS = \d+"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Function]]:
    """Every function and method with its dotted name; overloads, which only type checkers see, are none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function) and "overload" in map(ast.unparse, node.decorator_list):
            continue
        if isinstance(node, Function):
            yield f"{inside}{node.name}", node
        if isinstance(node, Function | ast.ClassDef):
            yield from functions(node, f"{inside}{node.name}.")
        else:
            yield from functions(node, inside)


@cache
def all_functions() -> list[tuple[str, Function]]:
    """Every function of the package as `file:name`."""
    return [
        (f"{path.relative_to(ROOT / 'geodetect').as_posix()}:{name}", node)
        for path in MODULES
        for name, node in functions(ast.parse(path.read_text(encoding="utf-8")))
    ]


def body_lines(function: Function) -> int:
    """Lines of a function after its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def signature(function: Function) -> list[str]:
    """Names of the parameters, without self and cls."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [each.arg for each in every if each is not None and each.arg not in ("self", "cls")]


def documented(docstring: str | None) -> list[str] | None:
    """Names in the section Args of a Google docstring; None where it has none."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", docstring or "", re.MULTILINE)
    return None if section is None else re.findall(r"^    \*{0,2}(\w+):", section[1], re.MULTILINE)


def fields(cls: ast.ClassDef) -> list[str]:
    """What a class is made of: the parameters of `__init__`, else the fields of a dataclass."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return signature(node)
    return [
        node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def test_imports_keep_to_the_floors() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, geodetect; print([m for m in ('torch', 'fastai', 'pandas', 'rasterio') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_public_names_are_those_of_the_face() -> None:
    assert set(geodetect.__all__) == PUBLIC
    assert set(geodetect.__all__) <= set(dir(geodetect))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # fastai, on import
@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_resolve_and_are_documented(name: str) -> None:
    thing = getattr(geodetect, name)
    assert thing.__module__.startswith("geodetect.")
    assert thing.__doc__


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documented_arguments_equal_the_signature(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {name: (documented(ast.get_docstring(node)), signature(node)) for name, node in functions(tree)}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    named |= {node.name: (documented(ast.get_docstring(node)), fields(node)) for node in classes}
    for name, (told, taken) in named.items():
        assert told is None or told == taken, f"{name} documents {told} and takes {taken}"


def test_front_functions_document_every_argument() -> None:
    for name, node in all_functions():
        front = name.rpartition(":")[2]
        if front in PUBLIC and name.startswith(geodetect._HOMES[front]):  # others may have a function of that name
            assert documented(ast.get_docstring(node)) == signature(node), name


def test_sizes() -> None:
    sizes = {name: body_lines(node) for name, node in all_functions()}
    lengths = sorted(sizes.values())
    assert {name: size for name, size in sizes.items() if size > 60} == {}
    assert statistics.median(lengths) <= 10
    assert lengths[len(lengths) * 9 // 10] <= 30
    long = {path.name: n for path in MODULES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert long == {}


def test_public_functions_take_at_most_four_positional_parameters() -> None:
    counts = {name: len(signature(node)) - len(node.args.kwonlyargs) for name, node in all_functions()}
    public = {name: n for name, n in counts.items() if not re.search(r"[:.]_", name)}
    assert {name for name, n in public.items() if n > 4} == set()


def test_the_newest_entry_of_the_change_log_is_this_version() -> None:
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heading is not None
    assert heading[1] == geodetect.__version__


def test_the_rooms_of_the_contributors_map_are_those_of_the_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)(?:/|\.py)`", text[text.index("## The rooms") : text.index("Where to change")]))
    paths = (ROOT / "geodetect").iterdir()
    there = {path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert told == there - {"__init__", "__main__"}


def test_no_file_of_leftovers() -> None:
    assert [path for path in MODULES if path.stem in FORBIDDEN_FILES] == []


def test_kwargs_are_handed_to_one_named_call() -> None:
    assert {name for name, node in all_functions() if node.args.kwarg} - set(KWARGS) == set()


def raises(statement: ast.stmt) -> bool:
    """Whether a handler that ends so only tidies up, and lets the error go on."""
    return isinstance(statement, ast.Raise) and statement.exc is None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_not_allowed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                found.append(f"print in line {node.lineno}")
            case ast.ExceptHandler(type=None | ast.Name(id="Exception")):
                found.append(f"a bare except in line {node.lineno}")
            case ast.ExceptHandler(type=ast.Name(id="BaseException"), body=[*_, last]) if not raises(last):
                found.append(f"a bare except in line {node.lineno}")
            case ast.Import(names=names) | ast.ImportFrom(names=names) if any(
                name.name in ("*", "pickle", "osgeo") for name in names
            ):
                found.append(f"an import in line {node.lineno}")
            case ast.Global():
                found.append(f"global in line {node.lineno}")
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv" | "putenv"):
                found.append(f"an environment variable in line {node.lineno}")
    assert found == []
    assert "TODO" not in text
    assert "FIXME" not in text


def bounds(requirements: list[str]) -> dict[str, str]:
    """Lower bounds by name: `{"torch": ">=2.6"}`."""
    return {re.split(r"[<>=\[ ]", each)[0]: re.sub(r"^[\w.-]+(\[.*\])?", "", each) for each in requirements}


def test_environment_yml_agrees_with_pyproject() -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    entries = re.findall(r"^  - ([\w.-]+)([<>=][^\s#]*)?(?: #.*)?$", text.partition("dependencies:")[2], re.MULTILINE)
    wanted = bounds(PROJECT["project"]["dependencies"]) | {"python": PROJECT["project"]["requires-python"]}
    assert dict(entries) == {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()} | CONDA_ONLY
    assert "conda-forge" in text
    assert "- -e ." in text


def test_every_dependency_has_a_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    extras = PROJECT["project"].get("optional-dependencies", {})
    listed = [PROJECT["build-system"]["requires"], PROJECT["project"]["dependencies"], *extras.values()]
    for requirement in (each for part in listed for each in part):
        named = [line for line in lines if f'"{requirement}"' in line]  # by several extras, each with its own reason
        assert named
        assert all(re.search(r"#\s*\S+", line) for line in named), f"{requirement} has no reason"


def test_every_dependency_is_imported_somewhere() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in MODULES)
    silent = {"pyarrow"}  # pyogrio and geopandas read and write through it
    called = {"pyyaml": "yaml"}
    unused = [
        name
        for name in bounds(PROJECT["project"]["dependencies"])
        if name not in silent and not re.search(rf"^\s*(import|from) {called.get(name, name)}\b", source, re.MULTILINE)
    ]
    assert unused == []


def workplace(folder: Path) -> Path:
    """A copy of what the README's code and the notebooks find around them."""
    shutil.copytree(ROOT / "sample_data", folder / "sample_data")
    (folder / "notebooks").mkdir()
    return folder


def shortened(code: str, replacements: dict[str, str]) -> str:
    """The code with everything replaced that takes long, all of which must be there."""
    for old, new in replacements.items():
        assert old in code, f"{old!r} is no longer there to be replaced"
        code = code.replace(old, new)
    return code


@pytest.mark.slow
def test_readme_code_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.S)
    assert blocks, "the README shows no Python"
    code = shortened("\n".join(blocks), README_REPLACEMENTS)
    environment = os.environ | {"MPLBACKEND": "agg"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=workplace(tmp_path), env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jupyter_client and zmq have their own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    sources = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(re.search(NOTEBOOK_EPOCHS, cell.source) for cell in sources), "EPOCHS is not there to be replaced"
    for cell in sources:
        cell.source = re.sub(NOTEBOOK_EPOCHS, "EPOCHS = 1", cell.source)
    where = {"metadata": {"path": str(workplace(tmp_path) / "notebooks")}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_tell_and_do_not_define(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    tree = ast.parse("".join("\n" if line.lstrip().startswith(("%", "!")) else line + "\n" for line in lines))
    names = [each.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for each in node.names]
    assert not any(name.startswith("_") for name in names)
    assert not any(isinstance(node, Function | ast.ClassDef) for node in ast.walk(tree))
    assert not any(
        keyword.arg == "progress" for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords
    )


def test_labels_go_through_few_modules_and_never_back() -> None:
    script = ROOT / "tests" / "benchmarks" / "house.py"
    written = subprocess.run([sys.executable, script, "--labels"], capture_output=True, text=True, check=True).stdout
    found = {name: rooms.split(" > ") for name, _, rooms in (line.split(maxsplit=2) for line in written.splitlines())}
    assert {"vector.features", "chips.cut"} <= set(found["labels"])
    assert len(found["labels"]) <= 6
    assert found["climbs"] == found["returns"] == ["none"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_results_and_no_debris(path: Path) -> None:
    outputs = [cell["outputs"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if "outputs" in cell]
    assert max(map(len, outputs)) <= 2  # a bar, and what the last line gives
    streams = ["".join(each["text"]) for cell in outputs for each in cell if each["output_type"] == "stream"]
    assert not [text for text in streams if "\x1b" in text or "\r" in text]


def test_the_quickstart_is_quick_to_load() -> None:
    assert NOTEBOOKS[0].stat().st_size < 3_000_000


@pytest.mark.parametrize("script", sorted((ROOT / "tests" / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_what_is_there(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "geodetect":
            module = importlib.import_module(node.module)
            for name in (each.name for each in node.names):
                if not hasattr(module, name):
                    importlib.import_module(f"{node.module}.{name}")
