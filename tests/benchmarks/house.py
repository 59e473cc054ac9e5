"""Figures of the package's own structure: lines, modules, helpers, parameters, and how far one call reaches.

    python tests/benchmarks/house.py [--package FOLDER] [--room NAME] [--labels] [--score]

Everything but `--labels` and `--score` is read from the source as text, without importing it. `reach` follows names:
a call of a function or class of the package, a method of `self`, and a method whose name only one class of the package
has. That class must lie in a module which the caller imports, directly or through others, since a value of any other
class has no type there; and the name must not be one of Python's own types or of arrays (`np.clip`, `path.with_suffix`
and `mask.all()` are none of ours). It is an estimate of what may run, and the same before and after a change. `--room`
lists what there is to look at in one room: private functions that are used once, long bodies, and functions with many
parameters. `--labels` runs `prepare_data` on the drawn suburb and writes the modules that its labels go through until
they are chips, which are those with a function that returns labels (features, objects, geometries, boxes), and then the
modules that return chips, in the order of their first result. A climb is a call that hands labels or chips to a module
which the caller's module does not import; a return is labels that come from `vector` once there are chips. `--score`
runs what chooses the score at the end of `fit`, with random weights, and writes the packages that it enters, in order,
and from which of them a call leads back up into `learner`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import io
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

PACKAGE = Path(__file__).resolve().parents[2] / "geodetect"
SUBURB = PACKAGE.parent / "sample_data" / "suburb_train.tif"
LABELS = ("GeoDataFrame", "Features", "Objects", "Placement", "GridLabels", "PixelLabels", "Boxes")
CHIPS = ("ChipPlan", "UsedClasses", "Source", "Parts", "DetectionData")
FRONT = {
    "detect_objects": "scene.detect.detect_objects",
    "fit": "learner.retinanet.RetinaNet.fit",
    "prepare_data": "chips.prepare.prepare_data",
}
MOST_PARAMETERS, LARGEST_TUPLE, LONG_BODY = 6, 2, 30
TYPES = (str, bytes, int, float, list, tuple, dict, set, Path, re.Pattern, re.Match, io.TextIOWrapper, np.ndarray)
FOREIGN = {name for kind in TYPES for name in dir(kind)}  # of methods that many values have

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One file: its tree, its definitions, and the names of the package that it imports."""

    name: str
    text: str
    tree: ast.Module
    imported: dict[str, str] = field(default_factory=dict)  # local name: dotted name inside the package
    functions: dict[str, Function] = field(default_factory=dict)  # "name" or "Class.name"
    classes: dict[str, list[str]] = field(default_factory=dict)  # names of their bases


def modules_of(package: Path) -> dict[str, Module]:
    """Return every module of the package by its dotted name without the package's own."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = list(path.relative_to(package).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        modules[name] = Module(name, text, ast.parse(text))
    for module in modules.values():
        _collect(module, package.name, modules)
    return modules


def _collect(module: Module, package: str, modules: dict[str, Module]) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            source = node.module.removeprefix(package).lstrip(".")
            for alias in node.names:
                module.imported[alias.asname or alias.name] = f"{source}.{alias.name}".lstrip(".")
    for node in module.tree.body:
        if isinstance(node, Function):
            module.functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            module.classes[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
            module.functions |= {f"{node.name}.{each.name}": each for each in node.body if isinstance(each, Function)}


class Calls:
    """The calls of a package by name."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self.modules = modules
        self._methods: dict[str, list[str]] = {}
        for module in modules.values():
            for name in module.functions:
                if "." in name:
                    self._methods.setdefault(name.split(".")[1], []).append(f"{module.name}.{name}")
        self._known = {name: self._closure(name) for name in modules}

    def _closure(self, start: str) -> set[str]:
        """Names of a module and of all modules that it imports, directly or through others."""
        found, waiting = set[str](), [start]
        while waiting:
            name = waiting.pop()
            while name not in self.modules:  # that of something in a module
                name = name.rpartition(".")[0]
            if name not in found:
                found.add(name)
                waiting += self.modules[name].imported.values()
        return found

    def reach(self, start: str) -> set[str]:
        """Return the dotted names of all functions that `start` leads to, itself among them."""
        found, waiting = set(), [start]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            waiting += self._called_by(name)
        return found

    def _called_by(self, name: str) -> Iterator[str]:
        module, function, owner = self._located(name)
        if module is None or function is None:
            return
        for node in ast.walk(function):
            if isinstance(node, ast.Name):
                yield from self._defined(module, node.id)
            elif isinstance(node, ast.Attribute):
                yield from self._attribute(module, owner, node)

    def _located(self, name: str) -> tuple[Module | None, Function | None, str]:
        """The module, the definition and, for a method, the class of a dotted name."""
        parts = name.split(".")
        for cut in range(len(parts) - 1, -1, -1):
            module = self.modules.get(".".join(parts[:cut]))
            rest = ".".join(parts[cut:])
            if module is not None and rest in module.functions:
                return module, module.functions[rest], rest.split(".")[0] if "." in rest else ""
        return None, None, ""

    def _defined(self, module: Module, name: str) -> list[str]:
        """What a bare name stands for: functions, or what makes an object of a class."""
        dotted = module.imported.get(name, f"{module.name}.{name}".lstrip("."))
        return self._resolved(dotted)

    def _resolved(self, dotted: str) -> list[str]:
        head, _, last = dotted.rpartition(".")
        module = self.modules.get(head)
        if module is None:
            return []
        if last in module.functions:
            return [dotted]
        if last in module.classes:
            made = (f"{last}.{each}" for each in ("__init__", "__post_init__", "__call__", "__enter__", "__iter__"))
            return [f"{head}.{each}".lstrip(".") for each in made if each in module.functions]
        passed_on = module.imported.get(last)  # a package that hands on what its modules define
        return self._resolved(passed_on) if passed_on and passed_on != dotted else []

    def _attribute(self, module: Module, owner: str, node: ast.Attribute) -> list[str]:
        owners = self._methods.get(node.attr, [])
        if isinstance(node.value, ast.Name):
            if node.value.id in ("self", "cls"):
                return self._own(module, owner, node.attr)
            dotted = module.imported.get(node.value.id, f"{module.name}.{node.value.id}")
            if found := self._resolved(f"{dotted}.{node.attr}"):
                return found
        if len(owners) != 1 or node.attr in FOREIGN:
            return []
        where = self._located(owners[0])[0]
        return owners if where is not None and where.name in self._known[module.name] else []

    def _own(self, module: Module, owner: str, name: str) -> list[str]:
        """The method that a class has itself or from its bases; none for a field."""
        if f"{owner}.{name}" in module.functions:
            return [f"{module.name}.{owner}.{name}"]
        for base in module.classes.get(owner, []):
            home, _, base = module.imported.get(base, f"{module.name}.{base}").rpartition(".")
            if home in self.modules and (found := self._own(self.modules[home], base, name)):
                return found
        return []


def body_lines(function: Function) -> int:
    """Return the lines of a function without its signature and its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def n_parameters(function: Function) -> int:
    """Return how many parameters a function has, `self` and `cls` not counted."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([each for each in every if each.arg not in ("self", "cls")])


def returns_tuple(function: Function) -> bool:
    """Return whether the annotation of a function's result is a tuple of more than two fixed values."""
    note = function.returns
    if not (isinstance(note, ast.Subscript) and isinstance(note.value, ast.Name) and note.value.id == "tuple"):
        return False
    values = note.slice.elts if isinstance(note.slice, ast.Tuple) else [note.slice]
    numbers = all(isinstance(value, ast.Name) and value.id in ("int", "float") for value in values)
    open_ended = any(isinstance(value, ast.Constant) and value.value is Ellipsis for value in values)
    return len(values) > LARGEST_TUPLE and not open_ended and not numbers  # bounds (x1, y1, x2, y2) have a usual order


def used_once(module: Module, name: str) -> bool:
    """Return whether the name of a private function stands in one more place than its definition."""
    return len(re.findall(rf"\b{name}\b", module.text)) == 2


def room(package: Path, name: str) -> Iterator[str]:
    """Yield a line for each function of a room that somebody should look at."""
    for module in modules_of(package).values():
        if module.name != name and not module.name.startswith(f"{name}."):
            continue
        for function, node in module.functions.items():
            lines, parameters = body_lines(node), n_parameters(node)
            single = re.fullmatch(r"_[a-z]\w*", function) and used_once(module, function)
            if single or lines > LONG_BODY or parameters > MOST_PARAMETERS or returns_tuple(node):
                once = "used once, " if single else ""
                yield f"{module.name}.{function}: {once}{lines} lines, {parameters} parameters"


class LabelsPath:
    """The way of labels through `prepare_data`, recorded while it runs on the drawn suburb.

    Attributes:
        labels: the modules that returned labels before there were chips, in the order of their first result.
        chips: the modules that returned chips.
        climbs: the calls that handed either to a module which the caller's does not import, as "caller -> module".
        returns: the modules of `vector` that returned labels once there were chips.
    """

    def __init__(self) -> None:
        self.labels, self.chips, self.climbs, self.returns = (dict[str, None]() for _ in range(4))  # as ordered sets
        self._modules = modules_of(PACKAGE)
        prepare = importlib.import_module("geodetect.chips.prepare")
        sys.setprofile(self._record)
        try:
            prepare.prepare_data(SUBURB, SUBURB.with_suffix(".geojson"), chip_size=256)
        finally:
            sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, result: object) -> None:
        room = room_of(frame)
        if room is None or frame.f_code.co_flags & inspect.CO_GENERATOR:  # those run where they are consumed
            return
        if event == "return" and holds(result, CHIPS):
            self.chips[room] = None
        elif event == "return" and holds(result, LABELS):
            if not self.chips:
                self.labels[room] = None
            elif room.startswith("vector."):
                self.returns[room] = None
        elif event == "call":
            handed = (value for name, value in frame.f_locals.items() if name != "self")
            caller = room_of(frame.f_back) if any(holds(value, LABELS + CHIPS) for value in handed) else None
            if caller and caller != room and not self._imports(caller, room):
                self.climbs[f"{caller} -> {room}"] = None

    def _imports(self, caller: str, room: str) -> bool:
        for name in self._modules[caller].imported.values():
            if name == room or name.startswith(f"{room}."):
                return True
            if name not in self._modules and room.startswith(f"{name.rpartition('.')[0]}."):  # a package hands it on
                return True
        return False


def room_of(frame: FrameType | None) -> str | None:
    """The module of the package whose code a frame runs; None for the code of others."""
    path = Path(frame.f_code.co_filename if frame else "")
    if not path.is_relative_to(PACKAGE):
        return None
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


class ScorePath:
    """The packages that choosing the score at the end of `fit` enters, and those that call back up into `learner`."""

    def __init__(self) -> None:
        self.packages, self.climbs = dict[str, None](), dict[str, None]()  # as ordered sets
        gd = importlib.import_module("geodetect")
        choose = importlib.import_module("geodetect.learner.thresholds").set_min_score
        data = gd.prepare_data(SUBURB, SUBURB.with_suffix(".geojson"), chip_size=128, overlap=32)
        model = gd.RetinaNet(data, backbone="resnet18", weights=None, size="small", scales="auto")
        detector = model.detector
        sys.setprofile(self._record)
        try:
            choose(detector, data.valid)
        finally:
            sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, _: object) -> None:
        room = room_of(frame) if event == "call" else None
        if room is None:
            return
        self.packages[room.split(".")[0]] = None
        caller = room_of(frame.f_back)
        if room.startswith("learner.") and caller is not None and not caller.startswith("learner."):
            self.climbs[f"{caller} -> {room}"] = None


def holds(value: Any, kinds: tuple[str, ...]) -> bool:
    """Return whether a value, or the first one of a list, is of one of the classes of these names, or geometries."""
    if isinstance(value, np.ndarray):
        geometries = value.dtype == object and value.size > 0 and type(value.flat[0]).__module__.startswith("shapely")
        return geometries and kinds is not CHIPS
    if isinstance(value, list | tuple) and value and type(value).__name__ not in LABELS + CHIPS:
        return holds(value[0], kinds)
    return type(value).__name__ in kinds


def figures(package: Path) -> dict[str, object]:
    """Return the figures by name."""
    modules = modules_of(package)
    functions = [function for module in modules.values() for function in module.functions.values()]
    private = [
        (module, name) for module in modules.values() for name in module.functions if re.fullmatch(r"_[a-z]\w*", name)
    ]
    once = [name for module, name in private if used_once(module, name)]
    passed_on = sum(
        1
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Name) and node.arg == node.value.id
    )
    bodies = [body_lines(function) for function in functions]
    lengths = {name: module.text.count("\n") for name, module in modules.items()}
    told: dict[str, object] = {
        "lines": sum(lengths.values()),
        "modules": len(modules),
        "functions and methods": len(functions),
        "private top-level functions": len(private),
        "of them used once": f"{len(once)} ({len(once) / max(1, len(private)):.0%})",
        "keywords passed on as x=x": passed_on,
        f"functions with more than {MOST_PARAMETERS} parameters": sum(
            n_parameters(f) > MOST_PARAMETERS for f in functions
        ),
        "functions that return more than two values": sum(map(returns_tuple, functions)),
        "longest module": "{1} lines, {0}".format(*max(lengths.items(), key=lambda item: item[1])),
        "longest body": f"{max(bodies)} lines",
        "median body": f"{statistics.median(bodies):g} lines",
    }
    calls = Calls(modules)
    for name, start in FRONT.items():
        found = calls.reach(start)
        rooms = {".".join(each.split(".")[:-1]) for each in found} & modules.keys()
        told[f"reach of {name}"] = f"{len(found)} functions in {len(rooms)} modules"
    return told


def main(argv: list[str]) -> None:
    """Write one figure a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=PACKAGE, help="folder of the package")
    parser.add_argument("--room", help="list what to look at in this room, for instance raster")
    parser.add_argument("--labels", action="store_true", help="write the modules that labels go through")
    parser.add_argument("--score", action="store_true", help="write the packages that choosing the score enters")
    arguments = parser.parse_args(argv)
    if arguments.labels or arguments.score:
        for name, rooms in vars(LabelsPath() if arguments.labels else ScorePath()).items():
            if not name.startswith("_"):
                sys.stdout.write(f"{name:8} {len(rooms)} {' > '.join(rooms) or 'none'}\n")
        return
    if arguments.room is not None:
        sys.stdout.writelines(f"{line}\n" for line in room(arguments.package, arguments.room))
        return
    for name, value in figures(arguments.package).items():
        sys.stdout.write(f"{name:44} {value}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
