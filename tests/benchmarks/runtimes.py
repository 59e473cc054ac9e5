"""Time of a network alone on the processor in other runtimes, beside geodetect's own, and how far their results differ.

    OMP_NUM_THREADS=1 python tests/benchmarks/runtimes.py [--network resnet50 small] [--windows 4] [--rounds 4]
        [--only NAME ...] [--tiny]
    OMP_NUM_THREADS=1 python tests/benchmarks/runtimes.py --network banepa wood [--epochs 20] [--size small] ...

The networks are the RetinaNet-ResNet50 of `scene_speed.py` with its random weights, and `size="small"` on an
EfficientNet-Lite0 with ImageNet weights and random heads. The name of a place of `places.py` stands for a network that
is trained there from ImageNet weights, as large as --size says; it is timed on windows of the ground that is scored,
and a last column gives AP50 there.
Pixels lie ready and standardised; logits and deltas come out. The runtimes take turns in several rounds, and the least
processor time counts, so that other work on the machine slows all of them alike. "eager" is what `Detector.frozen`
gives, in batches as `detect_objects` makes them; the others get one window at a time, or as many as `--batch-size`
says. int8 is calibrated on the windows that are timed. Start-up is the processor time of converting, compiling and
calibrating, of child processes too. Differences are against eager float32: of scores at all anchors, and of box sides
at anchors among the best 100 of a window. What is not installed is left out: `pip install openvino nncf onnxruntime
onnxscript`. `--tiny` takes sizes at which it only shows that it runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from places import PLACES
from scene_speed import CLASSES, CPU, PASSING, Scene
from torch import Tensor, nn

import geodetect as gd
from geodetect import memory
from geodetect.chips.chip import Chips
from geodetect.detector import Detector
from geodetect.learner.hits import Hits
from geodetect.learner.results import detect_chips
from geodetect.metadata import Architecture, Metadata
from geodetect.network import precision as precisions
from geodetect.network.coding import decode
from geodetect.network.inference import prepare_images
from geodetect.network.retinanet import Network
from geodetect.normalization import IMAGENET

REFERENCES = ("eager float32", "eager bf16")


class Outputs(NamedTuple):
    """What a network gives: (B, A, K) and (B, A, 4)."""

    logits: Tensor
    deltas: Tensor


Run = Callable[[Tensor], Outputs]


@dataclass(frozen=True)
class Case:
    """A network and what it is shown.

    Args:
        detector: in float32.
        images: (B, 3, H, W), standardised.
        batch_size: of runtimes other than eager.
        folder: for files.
        scored: chips for AP50, all as large as the images; None if the network has learnt nothing.
    """

    detector: Detector
    images: Tensor
    batch_size: int
    folder: Path
    scored: Chips | None = None

    @property
    def example(self) -> Tensor:
        """One batch."""
        return self.images[: self.batch_size]


def eager(case: Case, precision: str) -> Run:
    """The network as geodetect runs it."""
    detector = case.detector.frozen(precision)
    dtype, n_images = precisions.resolve(precision, CPU), detector.suited_batch_size(case.images.shape[-1])

    @torch.inference_mode()
    def run(images: Tensor) -> Outputs:
        with precisions.autocast(dtype, CPU):
            return joined([detector.running(batch) for batch in images.split(n_images)])

    return run


def compiled(case: Case, precision: str) -> Run:
    """`torch.compile`, weights frozen into the program."""
    from torch._inductor import config

    config.freezing, config.compile_threads, config.force_disable_caches = True, 1, True
    network = torch.compile(case.detector.network.eval())
    dtype = precisions.resolve(precision, CPU)

    @torch.no_grad()
    def run(images: Tensor) -> Outputs:
        with precisions.autocast(dtype, CPU):
            return joined([network(batch) for batch in images.split(case.batch_size)])

    run(case.example)
    return run


def openvino(case: Case, precision: str, *, mixed: bool = False) -> Run:
    """OpenVINO; int8 by nncf, with maps around zero or, mixed, around the middle of their range."""
    from openvino import Core, convert_model

    with torch.no_grad():
        model = convert_model(case.detector.network.eval(), example_input=case.example)
    model.reshape(list(case.example.shape))
    if precision == "int8":
        import nncf

        shown = [batch.contiguous().numpy() for batch in case.images.split(case.batch_size)]
        preset = nncf.QuantizationPreset.MIXED if mixed else nncf.QuantizationPreset.PERFORMANCE
        model = nncf.quantize(model, nncf.Dataset(shown), preset=preset, subset_size=len(shown))
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    request = Core().compile_model(model, "CPU", options).create_infer_request()

    def run(images: Tensor) -> Outputs:
        results = []
        for batch in images.split(case.batch_size):
            found = request.infer([batch.contiguous().numpy()])
            results.append(tuple(torch.from_numpy(found[i].copy()) for i in range(2)))
        return joined(results)

    return run


def onnxruntime(case: Case, precision: str) -> Run:
    """onnxruntime; int8 by its own quantisation, with scales that are fixed or found for each map."""
    from onnxruntime import InferenceSession, SessionOptions

    path = case.folder / "float32.onnx"
    names = {"input_names": ["images"], "output_names": ["logits", "deltas"]}
    with torch.no_grad():
        torch.onnx.export(
            case.detector.network.eval(),
            (case.example,),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            **names,
        )
    if precision != "float32":
        path = quantized(case, path, precision)
    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Outputs:
        batches = (batch.contiguous().numpy() for batch in images.split(case.batch_size))
        results = [session.run(None, {"images": batch}) for batch in batches]
        return joined([[torch.from_numpy(array) for array in arrays] for arrays in results])

    return run


def quantized(case: Case, path: Path, precision: str) -> Path:
    """Write a network in int8 beside one in float32."""
    from onnxruntime import quantization

    target = case.folder / f"{precision}.onnx"
    if precision == "dynamic int8":
        quantization.quantize_dynamic(path, target, per_channel=True)
        return target
    prepared = case.folder / "prepared.onnx"
    quantization.shape_inference.quant_pre_process(path, prepared, skip_symbolic_shape=True)
    shown = iter([{"images": batch.contiguous().numpy()} for batch in case.images.split(case.batch_size)])

    class Shown(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(shown, None)

    quantization.quantize_static(prepared, target, Shown(), per_channel=True, op_types_to_quantize=["Conv"])
    return target


RUNTIMES: dict[str, Callable[[Case], Run]] = {
    **{f"eager {precision}": partial(eager, precision=precision) for precision in ("float32", "bf16")},
    **{f"torch.compile {precision}": partial(compiled, precision=precision) for precision in ("float32", "bf16")},
    **{f"OpenVINO {precision}": partial(openvino, precision=precision) for precision in ("float32", "bf16", "int8")},
    "OpenVINO int8 mixed": partial(openvino, precision="int8", mixed=True),
    **{
        f"onnxruntime {precision}": partial(onnxruntime, precision=precision)
        for precision in ("float32", "int8", "dynamic int8")
    },
}
NEEDED = {"OpenVINO": ["openvino"], "onnxruntime": ["onnxruntime", "onnxscript"], "OpenVINO int8": ["openvino", "nncf"]}
NEEDED["OpenVINO int8 mixed"] = NEEDED["OpenVINO int8"]


def is_installed(name: str) -> bool:
    """Whether the packages of a runtime are there, or the compiler of `torch.compile`."""
    if name.startswith("torch.compile"):
        return shutil.which("g++") is not None
    packages = NEEDED.get(name, NEEDED.get(name.split()[0], []))
    return all(importlib.util.find_spec(package) for package in packages)


def joined(results: list[Any]) -> Outputs:
    """The outputs of several batches as float32."""
    return Outputs(*(torch.cat([result[i].float() for result in results]) for i in range(2)))


class StandIn(nn.Module):
    """A network that runs elsewhere, with the anchors of the one it was made from."""

    def __init__(self, run: Run, network: Network) -> None:
        super().__init__()
        self.forward, self.anchors, self.level_sizes = run, network.anchors, network.level_sizes


def ap50(case: Case, run: Run) -> str:
    """Mean AP50 of the classes on the chips that are scored, with this runtime's outputs."""
    if case.scored is None:
        return ""
    detector = copy(case.detector)
    detector.running = StandIn(run, case.detector.network)
    hits = Hits.of(*detect_chips(detector, case.scored), len(detector.classes))
    return f"{np.nanmean(hits.average_precision()):.4f} |"


def processor_time() -> float:
    """Seconds of all threads, and of processes that have ended."""
    return sum(os.times()[:4])


def differences(found: Outputs, reference: Outputs, anchors: Tensor) -> str:
    """How far scores are off at most, and sides of boxes at the anchors with the best scores."""
    scores, expected = found.logits.sigmoid(), reference.logits.sigmoid()
    best = expected.amax(dim=2).topk(PASSING, dim=1).indices[..., None].expand(-1, -1, 4)
    boxes, others = (decode(anchors.expand_as(each.deltas), each.deltas).gather(1, best) for each in (found, reference))
    return f"{(scores - expected).abs().max():.1g} | {(boxes - others).abs().max():.2g} px"


def trained(name: str, folder: Path, *, windows: int, batch_size: int, epochs: int, size: str | None) -> Case:
    """A network that was trained at a place, and some of the windows that are scored."""
    data, scored = PLACES[name](42)
    backbone = {"backbone": "efficientnet_lite0", "weights": "imagenet", "size": size, "scales": "auto"}
    model = gd.RetinaNet(data, seed=42, **backbone)
    model.fit(epochs, progress=False)
    detector = model.detector
    detector.precision = "float32"
    chosen = np.linspace(0, len(scored) - 1, windows).astype(int).tolist()
    pixels = torch.from_numpy(np.stack([scored[i].pixels for i in chosen]))
    images, _ = prepare_images(pixels, detector.normalization.mean, detector.normalization.std, CPU)
    return Case(detector, images, batch_size, folder, scored)


def cases(names: list[str], folder: Path, *, side: int, windows: int, batch_size: int) -> Iterator[tuple[str, Case]]:
    """The networks with windows of a scene, one after the other."""
    n_across = -(-max(windows, 4) // 2)
    overlap = side // 8
    scene = Scene(folder, side + (n_across - 1) * (side - overlap), side, overlap)
    scene.draw()
    images, _ = prepare_images(torch.from_numpy(scene.windows()[:windows]), IMAGENET.mean, IMAGENET.std, CPU)
    for name in names:
        if name == "small":
            torch.manual_seed(0)
            network = Network(Architecture("efficientnet_lite0", width=96, depth=2), n_classes=len(CLASSES))
            normalization = network.backbone.normalization
            metadata = Metadata(
                classes=CLASSES, bands=(1, 2, 3), normalization=normalization, chip_size=side, overlap=overlap
            )
            detector = Detector(network.eval(), metadata, precision="float32")
        else:
            scene.make()
            detector = scene.ours("float32")
        yield name, Case(detector, images, batch_size, folder)


def measure(case: Case, names: list[str], rounds: int) -> Iterator[str]:
    """Build all runtimes, let them take turns, and give a row for each."""
    runs, startups, results = {}, {}, {}
    for name in names:
        start = processor_time()
        runs[name] = RUNTIMES[name](case)
        startups[name] = processor_time() - start
        results[name] = runs[name](case.images)  # a warm-up too
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run(case.images)
            taken[name].append((time.process_time() - start) / len(case.images))
    best = {name: min(seconds) for name, seconds in taken.items()}
    usual = min(best[name] for name in REFERENCES)
    anchors = case.detector.network.anchors(tuple(case.images.shape[2:]))
    for name in names:
        off = differences(results[name], results[REFERENCES[0]], anchors)
        speed = f"{1000 * best[name]:.1f} ms | {usual / best[name]:.2f} | {startups[name]:.1f} s"
        yield f"| {name} | {speed} | {off} | {ap50(case, runs[name])}"


def main(argv: list[str]) -> None:
    """Write a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=["resnet50", "small", *PLACES], default=["resnet50", "small"])
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20, help="of a network that is trained at a place")
    parser.add_argument("--size", choices=["small"], help="of such a network")
    parser.add_argument("--only", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES))
    parser.add_argument("--tiny", action="store_true")
    choices = parser.parse_args(argv)
    side, windows, rounds = (64, 2, 1) if choices.tiny else (512, choices.windows, choices.rounds)
    chosen = [name for name in RUNTIMES if name in {*REFERENCES, *choices.only}]
    there = [name for name in chosen if is_installed(name)]
    left_out = ", ".join(name for name in chosen if name not in there)
    sys.stdout.write(f"{torch.get_num_threads()} threads, {windows} windows of {side} px, torch {torch.__version__}")
    sys.stdout.write(f"; not installed: {left_out}\n" if left_out else "\n")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of programs that trace
        sizes = {"windows": windows, "batch_size": choices.batch_size}
        drawn = [name for name in choices.network if name not in PLACES]
        training = {"epochs": choices.epochs, "size": choices.size}
        places = (
            (name, trained(name, Path(folder), **sizes, **training)) for name in choices.network if name in PLACES
        )
        for network, case in chain(cases(drawn, Path(folder), side=side, **sizes), places):
            sys.stdout.write(
                f"\n| {network} | a window | times as fast as eager | start-up | scores off | boxes off | AP50 |\n"
            )
            sys.stdout.write("|---|---|---|---|---|---|---|\n")
            with memory.reuse_freed():  # as in `detect_objects`
                for row in measure(case, there, rounds):
                    sys.stdout.write(row + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
