"""Whether geodetect finds what DeepForest and Ultralytics find with the same weights, and the times.

    OMP_NUM_THREADS=1 python tests/benchmarks/published.py [--data FOLDER] [--windows 6] [--side 2000] [--ultralytics]

DeepForest's own RetinaNet, with random weights that find something, is saved by its own `save_pretrained`, opened by
both, and run on windows of 400 px of real images. With --side both map a square of so many pixels instead, a mosaic of
these images, in float32 on one thread, each in a process of its own: DeepForest by `predict_tile` in its default
windows (400 px that overlap by 5 %), geodetect by `detect_objects` in the same windows. With --ultralytics a YOLO11n
with random weights is exported to ONNX by Ultralytics and run by its `predict` and by geodetect. Needs the package
`deepforest` or `ultralytics`.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import rasterio
import torch
import torchvision
from affine import Affine
from places import REAL_DATA

import geodetect as gd
from geodetect.boxes import Boxes, iou
from geodetect.grid import Tiling, Window
from geodetect.raster import RasterReader

SIDE, YOLO_SIDE, NMS_IOU, MIN_SCORE = 400, 320, 0.4, 0.3
# Of a map, in whole pixels (5 % of a window) and IoU: DeepForest's defaults. At this score no window that was looked at
# has more than the 1,000 predictions of a level that DeepForest considers; geodetect considers more above 256 px.
OVERLAP, MAP_IOU, MAP_SCORE = 20, 0.15, 0.58
SAME_IOU, SCORES_WITHIN = 0.99, 1e-3
MOST = 50  # of the best boxes of a window: those of random weights are ties further down
IMAGES = ("2019_YELL_2_541000_4977000_image_crop.png", "2018_SJER_3_252000_4107000_image_477.tif")


class FoundBoxes(NamedTuple):
    """What a program found: corners (N, 4) in pixels, and scores (N,)."""

    xyxy: np.ndarray
    scores: np.ndarray


def windows(data: Path, n_windows: int, side: int) -> Iterator[np.ndarray]:
    """Yield pixels (3, H, W) of windows of real images, the same each time."""
    for name in IMAGES:
        with RasterReader(data / "train" / "trees_deepforest" / name, bands=(1, 2, 3)) as reader:
            height, width = reader.grid.shape
            places = np.random.default_rng(0).integers(0, (max(1, width - side), max(1, height - side)), (n_windows, 2))
            for x, y in places.tolist():
                pixels, _ = reader.read(Window(x, y, min(side, width - x), min(side, height - y)))
                yield pixels


def square(data: Path, side: int, folder: Path) -> None:
    """Write a square of so many pixels, real images side by side in turn, as `square.tif`."""
    images = []
    for name in IMAGES:
        with rasterio.open(data / "train" / "trees_deepforest" / name) as image:
            images.append(image.read((1, 2, 3)))
    height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
    one, other = (image[:, :height, :width] for image in images)
    pair = np.block([[one, other], [other, one]])
    pixels = np.tile(pair, (1, -(-side // pair.shape[1]), -(-side // pair.shape[2])))[:, :side, :side]
    place = {"crs": "EPSG:32612", "transform": Affine(0.1, 0, 541_000, 0, -0.1, 4_978_000)}
    size = {"width": side, "height": side, "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(folder / "square.tif", "w", driver="GTiff", **size, **place) as to:
        to.write(pixels)


def retinanet_of_deepforest() -> Any:
    """Return DeepForest's class of RetinaNets, which downloads no weights of backbones that are replaced anyway."""
    random = partial(torchvision.models.detection.retinanet_resnet50_fpn, weights_backbone=None)
    torchvision.models.detection.retinanet_resnet50_fpn = random
    from deepforest.models.retinanet import RetinaNetHub

    return RetinaNetHub


def theirs(folder: Path, min_score: float = MIN_SCORE, nms_iou: float = NMS_IOU) -> torch.nn.Module:
    """Save DeepForest's RetinaNet with random weights into a folder, and return it as DeepForest loads it again."""
    kind = retinanet_of_deepforest()
    torch.manual_seed(0)
    model = kind(num_classes=1, label_dict={"Tree": 0}, score_thresh=min_score, nms_thresh=nms_iou)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.08)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.bias, mean=-4.6, std=0.1)
    torch.nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.02)
    model.save_pretrained(folder)
    return kind.from_pretrained(folder).eval()


def compare_windows(model: torch.nn.Module, folder: Path, data: Path, n_windows: int) -> str:
    """Run both on windows of real images; return the largest differences, and seconds of each."""
    from deepforest import predict

    detector = gd.load_detector(folder, device="cpu", precision="float32")
    worst_iou, worst_score, n_boxes, seconds = 1.0, 0.0, 0, {"DeepForest": 0.0, "geodetect": 0.0}
    for pixels in windows(data, n_windows, SIDE):
        start = time.perf_counter()
        image = np.moveaxis(pixels, 0, -1).astype("float32")
        found = predict._predict_image_(model=model, image=image, path=None, nms_thresh=NMS_IOU)
        middle = time.perf_counter()
        (ours,) = detector.detect(pixels[None], min_score=MIN_SCORE, nms_iou=NMS_IOU)
        seconds["DeepForest"] += middle - start
        seconds["geodetect"] += time.perf_counter() - middle
        if found is None:
            assert not len(ours)
            continue
        best = found.sort_values("score", ascending=False).head(MOST)
        same = iou(best[["xmin", "ymin", "xmax", "ymax"]].to_numpy(float), ours.xyxy)
        worst_iou = min(worst_iou, same.max(axis=1).min())
        differences = np.abs(ours.scores[same.argmax(axis=1)] - best["score"].to_numpy())
        worst_score = max(worst_score, differences.max())
        n_boxes += len(best)
    times = ", ".join(f"{name} {each:.1f} s" for name, each in seconds.items())
    return f"{n_boxes} boxes: IoU at least {worst_iou:.5f}, scores within {worst_score:.1e}; {times}"


def prepare_deepforest(folder: Path) -> Callable[[], FoundBoxes]:
    """Load everything, and return a function that maps the square in a folder by `predict_tile`."""
    from deepforest.main import deepforest

    settings = {"num_classes": 1, "label_dict": {"Tree": 0}, "nms_thresh": MAP_IOU, "score_thresh": MAP_SCORE}
    program = deepforest(model=retinanet_of_deepforest().from_pretrained(folder), config_args=settings)
    program.set_labels({"Tree": 0})
    windows = {"patch_size": SIDE, "patch_overlap": OVERLAP / SIDE, "iou_threshold": MAP_IOU}

    def run() -> FoundBoxes:
        found = program.predict_tile(path=str(folder / "square.tif"), **windows)
        return FoundBoxes(found[["xmin", "ymin", "xmax", "ymax"]].to_numpy(float), found["score"].to_numpy(float))

    return run


def prepare_geodetect(folder: Path) -> Callable[[], FoundBoxes]:
    """Load everything, and return a function that maps the square in a folder by `detect_objects`, to a file."""
    raster, output = folder / "square.tif", folder / "found.fgb"
    detector = gd.load_detector(folder, device="cpu", precision="float32")
    settings = {"min_score": MAP_SCORE, "nms_iou": MAP_IOU, "overlap": OVERLAP, "precision": "float32"}
    with rasterio.open(raster) as scene:
        to_pixels = ~scene.transform

    def run() -> FoundBoxes:
        found = geopandas.read_file(gd.detect_objects(raster, detector, output, progress=False, **settings))
        west, south, east, north = found.bounds.to_numpy().T
        return FoundBoxes(
            np.stack([*(to_pixels * (west, north)), *(to_pixels * (east, south))], axis=1), found["score"]
        )

    return run


PROGRAMS = {"DeepForest": prepare_deepforest, "geodetect": prepare_geodetect}


def run_program(name: str, folder: Path) -> None:
    """Map the square in a folder with a program, and save what it found, its processor time and peak memory there."""
    torch.set_num_threads(1)
    run = PROGRAMS[name](folder)
    start = time.process_time()
    found = run()
    seconds = time.process_time() - start
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.savez(folder / f"{name}.npz", **found._asdict(), seconds=seconds, mib=mib)


def compare_maps(folder: Path, side: int) -> str:
    """Map the square in a folder with both, each in a process of its own; return times, memory and agreement.

    Boxes are compared as DeepForest gives them, in whole pixels, and only those that lie in one window alone: elsewhere
    DeepForest keeps the best part of an object that a window cuts, and geodetect the whole object.
    """
    lines, maps = [], {}
    tiling = Tiling((side, side), SIDE, OVERLAP)
    for name in PROGRAMS:
        command = [sys.executable, __file__, "--run", name, "--folder", str(folder)]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with np.load(folder / f"{name}.npz") as saved:
            maps[name] = Boxes(np.trunc(saved["xyxy"]), np.zeros(len(saved["scores"]), int), saved["scores"])
            seconds, mib = float(saved["seconds"]), float(saved["mib"])
        lines.append(
            f"{name}: {len(tiling)} windows, {seconds:.1f} s of processor time ({seconds / len(tiling):.2f} s each), "
            f"{mib:,.0f} MiB, {len(maps[name])} boxes"
        )
    names = list(PROGRAMS)
    for one, other in (names, names[::-1]):
        inner = maps[one][in_one_window(maps[one].xyxy, tiling)]
        same = find_same(inner, maps[other])
        lines.append(f"of {len(inner)} boxes of {one} in one window alone, {other} has {same.sum()}")
    return "\n".join(lines)


def in_one_window(xyxy: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Return which boxes (N, 4) do not touch what two windows share."""
    starts = np.array(sorted({window.x for window in tiling}))  # the same down and across a square
    shared = np.stack([starts[1:], starts[:-1] + SIDE], axis=1)
    touches = (xyxy[:, None, :2] <= shared[:, 1, None]) & (xyxy[:, None, 2:] >= shared[:, 0, None])
    return ~touches.any(axis=(1, 2))


def find_same(some: Boxes, others: Boxes, step: int = 200) -> np.ndarray:
    """Return which boxes have one among the others with an IoU above 0.99 and the same score to 0.001."""
    same = np.zeros(len(some), bool)
    for start in range(0, len(some), step):
        part = some[np.arange(start, min(start + step, len(some)))]
        alike = np.abs(part.scores[:, None] - others.scores) < SCORES_WITHIN
        same[start : start + step] = (alike & (iou(part.xyxy, others.xyxy) > SAME_IOU)).any(axis=1)
    return same


def compare_ultralytics(data: Path, n_windows: int) -> str:
    """Export a YOLO11n and run it with both on windows of real images; return the largest differences, and seconds."""
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    exporter = YOLO("yolo11n.yaml")
    # Two classes: it moves boxes of class k by 7,680 k px before suppression, where float32 rounds to 0.06 px for 80.
    two = DetectionModel("yolo11n.yaml", nc=2, verbose=False)
    two.args, two.task = exporter.model.args, exporter.task
    exporter.model = two
    for branch, std in (("cv2", 0.1), ("cv3", 0.8)):  # the last layers of boxes and of classes
        for layers in getattr(exporter.model.model[-1], branch):
            torch.nn.init.normal_(layers[-1].weight, std=std)
    for module in exporter.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of the pass below, else features vanish
    seen = torch.from_numpy(np.stack(list(windows(data, n_windows, YOLO_SIDE)))).float() / 255
    exporter.model.train()(seen)
    exporter.model.eval()
    path = Path(exporter.export(format="onnx", imgsz=YOLO_SIDE, simplify=False, verbose=False))
    program, detector = YOLO(path, task="detect"), gd.load_detector(path)
    worst_iou, worst_score, n_boxes, n_ours, seconds = 1.0, 0.0, 0, 0, {"Ultralytics": 0.0, "geodetect": 0.0}
    for pixels in windows(data, n_windows, YOLO_SIDE):
        image = np.ascontiguousarray(np.moveaxis(pixels, 0, -1)[..., ::-1])  # blue first, as OpenCV reads it
        start = time.perf_counter()
        (result,) = program.predict(
            image, imgsz=YOLO_SIDE, conf=MIN_SCORE, iou=NMS_IOU, max_det=30_000, device="cpu", verbose=False
        )
        middle = time.perf_counter()
        (ours,) = detector.detect(pixels[None], min_score=MIN_SCORE, nms_iou=NMS_IOU)
        seconds["Ultralytics"] += middle - start
        seconds["geodetect"] += time.perf_counter() - middle
        boxes = result.boxes
        same = iou(boxes.xyxy.numpy().astype(float), ours.xyxy)
        same[boxes.cls.numpy()[:, None] != ours.labels[None]] = 0
        if not len(boxes):
            continue
        worst_iou = min(worst_iou, same.max(axis=1).min())
        worst_score = max(worst_score, np.abs(ours.scores[same.argmax(axis=1)] - boxes.conf.numpy()).max())
        n_boxes, n_ours = n_boxes + len(boxes), n_ours + len(ours)
    times = ", ".join(f"{name} {each:.1f} s" for name, each in seconds.items())
    return (
        f"{n_boxes} boxes of Ultralytics, {n_ours} of geodetect: IoU at least {worst_iou:.5f}, scores within "
        f"{worst_score:.1e}; {times}"
    )


def main(argv: list[str]) -> None:
    """Compare and write a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder that holds train/trees_deepforest")
    parser.add_argument("--windows", type=int, default=6, help="of each image")
    parser.add_argument("--side", type=int, help="pixels of a square to map as a whole")
    parser.add_argument("--ultralytics", action="store_true", help="compare with Ultralytics, not with DeepForest")
    parser.add_argument("--run", choices=PROGRAMS, help="map the square in --folder, as --side does with each program")
    parser.add_argument("--folder", type=Path)
    choices = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if choices.run:
        run_program(choices.run, choices.folder)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if choices.ultralytics:
            with contextlib.chdir(folder):  # where it exports to
                told = compare_ultralytics(choices.data.resolve(), choices.windows)
        elif choices.side is not None:
            theirs(folder, MAP_SCORE, MAP_IOU)
            square(choices.data, choices.side, folder)
            told = compare_maps(folder, choices.side)
        else:
            told = compare_windows(theirs(folder), folder, choices.data, choices.windows)
        sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
