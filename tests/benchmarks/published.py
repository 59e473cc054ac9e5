"""Whether geodetect finds what DeepForest and Ultralytics find with the same weights, and the times.

    python tests/benchmarks/published.py [--data FOLDER] [--windows 6] [--side 2000] [--ultralytics]

DeepForest's own RetinaNet, with random weights that find something, is saved by its own `save_pretrained`, opened by
both, and run on windows of 400 px of real images. With --side both map a square of so many pixels, made of one of them
again and again, in windows of 400 px that overlap by a quarter: DeepForest by `predict_tile`, which suppresses boxes of
all windows at an IoU of 0.15, geodetect by `detect_objects`; so the numbers of boxes do not compare, but the times do.
With --ultralytics a YOLO11n with random weights is exported to ONNX by Ultralytics and run by its `predict` and by
geodetect instead. Needs the package `deepforest` or `ultralytics`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import torch
import torchvision
from affine import Affine
from places import REAL_DATA

import geodetect as gd
from geodetect.boxes import iou
from geodetect.grid import Window
from geodetect.raster import RasterReader

SIDE, YOLO_SIDE, NMS_IOU, MIN_SCORE = 400, 320, 0.4, 0.3
MOST = 50  # of the best boxes of a window: those of random weights are ties further down
IMAGES = ("2019_YELL_2_541000_4977000_image_crop.png", "2018_SJER_3_252000_4107000_image_477.tif")


def windows(data: Path, n_windows: int, side: int) -> Iterator[np.ndarray]:
    """Yield pixels (3, H, W) of windows of real images, the same each time."""
    for name in IMAGES:
        with RasterReader(data / "train" / "trees_deepforest" / name, bands=(1, 2, 3)) as reader:
            height, width = reader.grid.shape
            places = np.random.default_rng(0).integers(0, (max(1, width - side), max(1, height - side)), (n_windows, 2))
            for x, y in places.tolist():
                pixels, _ = reader.read(Window(x, y, min(side, width - x), min(side, height - y)))
                yield pixels


def square(data: Path, side: int, folder: Path) -> Path:
    """Write a square of so many pixels, made of one real image again and again, and return its path."""
    with rasterio.open(data / "train" / "trees_deepforest" / IMAGES[0]) as image:
        pixels = image.read((1, 2, 3))
    times = [-(-side // length) for length in pixels.shape[1:]]
    pixels = np.tile(pixels, (1, *times))[:, :side, :side]
    path = folder / "square.tif"
    place = {"crs": "EPSG:32612", "transform": Affine(0.1, 0, 541_000, 0, -0.1, 4_978_000)}
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", **place, **tiles
    ) as to:
        to.write(pixels)
    return path


def theirs(folder: Path) -> torch.nn.Module:
    """Save DeepForest's RetinaNet with random weights into a folder, and return it as DeepForest loads it again."""
    random = partial(torchvision.models.detection.retinanet_resnet50_fpn, weights_backbone=None)
    torchvision.models.detection.retinanet_resnet50_fpn = random  # else it downloads weights that are replaced anyway
    from deepforest.models.retinanet import RetinaNetHub

    torch.manual_seed(0)
    options = {"num_classes": 1, "label_dict": {"Tree": 0}, "score_thresh": MIN_SCORE, "nms_thresh": NMS_IOU}
    model = RetinaNetHub(**options)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.08)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.bias, mean=-4.6, std=0.1)
    torch.nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.02)
    model.save_pretrained(folder)
    return RetinaNetHub.from_pretrained(folder).eval()


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


def compare_raster(model: torch.nn.Module, folder: Path, raster: Path) -> str:
    """Map a whole raster with both, and return numbers of boxes and seconds."""
    from deepforest.main import deepforest

    start = time.perf_counter()
    settings = {"num_classes": 1, "label_dict": {"Tree": 0}, "nms_thresh": NMS_IOU, "score_thresh": MIN_SCORE}
    program = deepforest(model=model, config_args=settings)
    program.set_labels({"Tree": 0})
    found = program.predict_tile(path=str(raster), patch_size=SIDE, patch_overlap=0.25)
    middle = time.perf_counter()
    ours = gd.detect_objects(
        raster, gd.load_detector(folder), min_score=MIN_SCORE, nms_iou=NMS_IOU, bands=(1, 2, 3), progress=False
    )
    end = time.perf_counter()
    n_found = 0 if found is None else len(found)
    return (
        f"{raster.name}: DeepForest {n_found} boxes in {middle - start:.1f} s, "
        f"geodetect {len(ours)} in {end - middle:.1f} s"
    )


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
    choices = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if choices.ultralytics:
            with contextlib.chdir(folder):  # where it exports to
                sys.stdout.write(f"{compare_ultralytics(choices.data.resolve(), choices.windows)}\n")
            return
        model = theirs(folder)
        sys.stdout.write(f"{compare_windows(model, folder, choices.data, choices.windows)}\n")
        sys.stdout.flush()
        if choices.side is not None:
            sys.stdout.write(f"{compare_raster(model, folder, square(choices.data, choices.side, folder))}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
