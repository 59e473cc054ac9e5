"""`.dlpk`: a deep learning package for ArcGIS. Experimental: nobody has yet run one in ArcGIS Pro.

A plain zip file of three: the definition (`.emd`, JSON), a Python raster function, and the network. ArcGIS brings
its own, mostly older PyTorch, which reads no program that a newer one exported. So the network is written as
the list of PyTorch's basic operators that it is made of, into the metadata of a safetensors file with its weights.
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
from torch import Tensor, fx

from geodetect.colours import class_colours
from geodetect.detector import Detector
from geodetect.errors import OutputError
from geodetect.export.program import (
    Detections,
    traced,
)
from geodetect.export.raster_function import GeodetectDetector, Program
from geodetect.export.verify import refuse_unlike, rows
from geodetect.files import appearing

_CLASS = GeodetectDetector.__name__  # of the function, and so of its file
_WEIGHTS = "network.safetensors"
_BATCH_SIZE = 4


def export(detector: Detector, path: Path) -> None:
    """Write a package that ArcGIS' tools for detecting objects take.

    Args:
        detector: is not changed.
        path: appears when its network has been read back and gave what the detector's gives.

    Raises:
        OutputError: if the file cannot be written, or gives something else; no file is left then.
    """
    detections = Detections(detector).eval()
    network = _network(traced(detections, detector))
    with appearing(path) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{path.stem}.emd", json.dumps(_definition(detector, path.stem), indent=2))
            source = resources.files("geodetect.export").joinpath("raster_function.py").read_text(encoding="utf-8")
            archive.writestr(f"{_CLASS}.py", source)
            archive.writestr(_WEIGHTS, network)
        _check(part, detections, detector)


def _definition(detector: Detector, name: str) -> dict[str, Any]:
    """The model definition: https://github.com/Esri/raster-deep-learning/blob/master/docs/writing_model_definition.md."""
    colours = class_colours(detector.classes)
    return {
        "ModelName": name,
        "ModelType": "ObjectDetection",
        "ModelFile": _WEIGHTS,
        "InferenceFunction": f"{_CLASS}.py",
        "Description": _description(detector),
        "ImageHeight": detector.chip_size,
        "ImageWidth": detector.chip_size,
        "ExtractBands": [band - 1 for band in detector.bands],  # counted from 0 there
        "ImageSpaceUsed": "MAP_SPACE",
        "Padding": detector.overlap // 2,
        "Threshold": detector.metadata.lowest_score,
        "BatchSize": _BATCH_SIZE,
        "Classes": [
            {"Value": k + 1, "Name": each, "Color": list(bytes.fromhex(colours[each][1:]))}
            for k, each in enumerate(detector.classes)
        ],
        **_cell_sizes(detector.pixel_size_m),
        "Geodetect": detector.metadata.to_json(),
    }


def _cell_sizes(pixel_size_m: float | None) -> dict[str, Any]:
    """The smallest and largest cells that the model takes, as ArcGIS writes them; empty if it takes any.

    They are in metres. ArcGIS states the coordinate system of its units, which a model does not have; Web Mercator's
    are metres.
    """
    if pixel_size_m is None:
        return {}
    size = {"x": pixel_size_m, "y": pixel_size_m, "spatialReference": {"wkid": 102100, "latestWkid": 3857}}
    return {"MinCellSize": size, "MaxCellSize": size}


def _description(detector: Detector) -> str:
    size = "" if detector.pixel_size_m is None else f" in pixels of {detector.pixel_size_m:g} m"
    return f"Finds {', '.join(detector.classes)}{size}. Made by geodetect; experimental."


def _network(program: torch.export.ExportedProgram) -> bytes:
    """The program as steps, with its weights, in safetensors."""
    signature = program.graph_signature
    places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = dict(signature.inputs_to_lifted_tensor_constants)
    for place, node in enumerate(program.graph.nodes):
        node.meta["place"] = place
    nodes = [node for node in program.graph.nodes if not _is_assertion(node)]
    (given,) = signature.user_inputs
    steps = [_step(node, given) for node in nodes if node.op == "call_function"]
    used = {user for node in nodes if node.op == "call_function" for user in node.all_input_nodes}
    weights = {
        node.name: _stored(program, places.get(node.name), constants.get(node.name))
        for node in nodes
        if node.op == "placeholder" and node.name != given and node in used
    }
    told = {"input": given, "steps": steps, "outputs": list(signature.user_outputs)}
    return bytes(serialise(weights, {"program": json.dumps(told)}))


def _stored(program: torch.export.ExportedProgram, place: str | None, constant: str | None) -> Tensor:
    """A weight, a buffer or a constant of a program."""
    value = program.constants[constant] if place is None and constant is not None else program.state_dict[str(place)]
    assert isinstance(value, Tensor)
    return value.detach().contiguous()


def _is_assertion(node: fx.Node) -> bool:
    """Whether a node checks something about sizes and gives nothing."""
    return node.op == "call_function" and not node.users and not _name(node).startswith("operator.")


def _step(node: fx.Node, given: object) -> dict[str, Any]:
    """A node of a graph: what to call, with what, and which intermediate values nobody asks for after it."""
    done = [
        each.name for each in node.all_input_nodes if each.op == "call_function" and max(each.users, key=_place) is node
    ]
    arguments = {"args": _plain(node.args), "kwargs": _plain(dict(node.kwargs))}
    return {"name": node.name, "op": _name(node), **arguments, "done": done}


def _place(node: fx.Node) -> int:
    """Where a node stands in its graph."""
    return int(node.meta["place"])


def _name(node: fx.Node) -> str:
    """`aten.conv2d.default`, or `operator.getitem`."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    name = getattr(node.target, "__name__", "")
    if not hasattr(operator, name):
        raise OutputError(f"the network uses {node.target}, which no package for ArcGIS can hold; export .onnx instead")
    return f"operator.{name}"


def _plain(argument: Any) -> Any:
    """An argument as JSON, with other steps by their names."""
    if isinstance(argument, fx.Node):
        return {"value": argument.name}
    if isinstance(argument, list | tuple):
        return [_plain(each) for each in argument]
    if isinstance(argument, dict):
        return {name: _plain(each) for name, each in argument.items()}
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    raise OutputError(f"the network takes {argument!r}, which a package for ArcGIS cannot hold; export .onnx instead")


def _check(path: Path, detections: Detections, detector: Detector) -> None:
    """Read the network back as ArcGIS would, and hold it against the detector's.

    Raises:
        OutputError: if the two differ.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        program = Program(archive.extract(_WEIGHTS, folder), torch.device("cpu"))
    refuse_unlike(lambda pixels: rows(*program(pixels)), detections, detector)
