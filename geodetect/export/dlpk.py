"""`.dlpk`: a deep learning package for ArcGIS. Experimental: not yet tested in ArcGIS Pro.

A zip file of three members: the definition (`.emd`, JSON), a Python raster function, and the network. ArcGIS has its
own, mostly older PyTorch, which cannot read a program exported by a newer one. So the network is a list of PyTorch's
basic operators, in the metadata of a safetensors file with its weights.
"""

from __future__ import annotations

import json
import operator
import tempfile
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import fx

from geodetect.colours import class_colours
from geodetect.detector import Detector
from geodetect.errors import OutputError
from geodetect.export.program import Detections, trace
from geodetect.export.raster_function import GeodetectDetector, Program
from geodetect.export.verify import check_same, to_rows
from geodetect.files import replace_atomically

_CLASS = GeodetectDetector.__name__  # ArcGIS wants the module to have the same name
_WEIGHTS = "network.safetensors"
_BATCH_SIZE = 4


def export(detector: Detector, path: Path) -> None:
    """Write a package for ArcGIS' tools that detect objects.

    Args:
        detector: is not changed.
        path: appears only after its network was read back and gave the detector's results.

    Raises:
        OutputError: if the file cannot be written, or its results differ; no partial file is left behind.
    """
    detections = Detections(detector).eval()
    network = _serialise(trace(detections, detector))
    source = resources.files("geodetect.export").joinpath("raster_function.py").read_text(encoding="utf-8")
    with replace_atomically(path) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{path.stem}.emd", json.dumps(_describe(detector, path.stem), indent=2))
            archive.writestr(f"{_CLASS}.py", source)
            archive.writestr(_WEIGHTS, network)
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(part) as archive:
            program = Program(archive.extract(_WEIGHTS, folder), torch.device("cpu"))
        check_same(lambda pixels: to_rows(*program(pixels)), detections, detector)


def _describe(detector: Detector, name: str) -> dict[str, Any]:
    """Return the model definition.

    https://github.com/Esri/raster-deep-learning/blob/master/docs/writing_model_definition.md
    """
    colours, size, pixels = class_colours(detector.classes), detector.pixel_size_m, ""
    cells: dict[str, Any] = {}
    if size is not None:
        pixels = f" in pixels of {size:g} m"
        # Metres, in Web Mercator: ArcGIS wants a coordinate system with its units, and a model has none.
        cell = {"x": size, "y": size, "spatialReference": {"wkid": 102100, "latestWkid": 3857}}
        cells = {"MinCellSize": cell, "MaxCellSize": cell}
    return {
        "ModelName": name,
        "ModelType": "ObjectDetection",
        "ModelFile": _WEIGHTS,
        "InferenceFunction": f"{_CLASS}.py",
        "Description": f"Finds {', '.join(detector.classes)}{pixels}. Made by geodetect; experimental.",
        "ImageHeight": detector.chip_size,
        "ImageWidth": detector.chip_size,
        "ExtractBands": [band - 1 for band in detector.bands],  # counted from 0 there
        "ImageSpaceUsed": "MAP_SPACE",
        "Padding": detector.overlap // 2,
        "Threshold": detector.metadata.lowest_min_score,
        "BatchSize": _BATCH_SIZE,
        "Classes": [
            {"Value": k + 1, "Name": each, "Color": list(bytes.fromhex(colours[each][1:]))}
            for k, each in enumerate(detector.classes)
        ],
        **cells,
        "Geodetect": detector.metadata.to_json(),
    }


def _serialise(program: torch.export.ExportedProgram) -> bytes:
    """Return a program as safetensors: its weights, and its steps as JSON in the metadata.

    A step names its operator, its arguments, and as `done` the earlier results that no later step needs.
    """
    signature = program.graph_signature
    (given,) = signature.user_inputs
    # calls without a user only check sizes
    nodes = [each for each in program.graph.nodes if each.op != "call_function" or each.users]
    last_users = {each: node for node in nodes for each in node.all_input_nodes}
    steps = [
        {
            "name": node.name,
            "op": _to_json(node.target),
            "args": _to_json(node.args),
            "kwargs": _to_json(dict(node.kwargs)),
            "done": [e.name for e in node.all_input_nodes if e.op == "call_function" and last_users[e] is node],
        }
        for node in nodes
        if node.op == "call_function"
    ]
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors: dict[str, Any] = {**program.constants, **program.state_dict}
    weights = {
        node.name: tensors[names[node.name]].detach().contiguous()
        for node in nodes
        if node.op == "placeholder" and node.name != given and node in last_users
    }
    listing = {"input": given, "steps": steps, "outputs": list(signature.user_outputs)}
    return bytes(serialise(weights, {"program": json.dumps(listing)}))


def _to_json(argument: Any) -> Any:
    """Return an argument as JSON, with the results of other steps by name.

    Operators have names too: `aten.conv2d.default` of PyTorch, `operator.getitem` of Python.
    """
    if isinstance(argument, torch._ops.OpOverload):
        return str(argument)
    if callable(argument) and hasattr(operator, name := getattr(argument, "__name__", "")):
        return f"operator.{name}"
    if isinstance(argument, fx.Node):
        return {"value": argument.name}
    if isinstance(argument, list | tuple):
        return [_to_json(each) for each in argument]
    if isinstance(argument, dict):
        return {name: _to_json(each) for name, each in argument.items()}
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    raise OutputError(f"the network uses {argument!r}, which a package for ArcGIS cannot hold; export .onnx instead")
