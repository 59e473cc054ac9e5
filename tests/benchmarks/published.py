"""Whether geodetect finds what DeepForest finds with the same weights, and both times.

    python tests/benchmarks/published.py [--data FOLDER] [--windows 6] [--raster FILE]

DeepForest's own RetinaNet, with random weights that find something, is saved by its own `save_pretrained`, opened by
both, and run on windows of 400 px of real images. With --raster both map a whole file in windows of 400 px, DeepForest
by `predict_tile`; its windows are merged at an IoU of 0.15 regardless of class, ours by `detect_objects` exactly, so
that only the times compare. Needs the package `deepforest`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from places import REAL_DATA

import geodetect as gd
from geodetect.boxes import iou
from geodetect.raster import RasterReader

SIDE, NMS_IOU, MIN_SCORE = 400, 0.4, 0.3
MOST = 50  # of the best boxes of a window: those of random weights are ties further down
IMAGES = ("2019_YELL_2_541000_4977000_image_crop.png", "2018_SJER_3_252000_4107000_image_477.tif")


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
    for name in IMAGES:
        with RasterReader(data / "train" / "trees_deepforest" / name, bands=(1, 2, 3)) as reader:
            height, width = reader.grid.shape
            places = np.random.default_rng(0).integers(0, (max(1, width - SIDE), max(1, height - SIDE)), (n_windows, 2))
            for x, y in places.tolist():
                window = gd.grid.Window(x, y, min(SIDE, width - x), min(SIDE, height - y))
                pixels, _ = reader.read(window)
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
    program = deepforest(model=model, config_args={"nms_thresh": NMS_IOU, "score_thresh": MIN_SCORE})
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


def main(argv: list[str]) -> None:
    """Compare and write a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder that holds train/trees_deepforest")
    parser.add_argument("--windows", type=int, default=6, help="of each image")
    parser.add_argument("--raster", type=Path, help="a file to map as a whole")
    choices = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        model = theirs(Path(folder))
        sys.stdout.write(f"{compare_windows(model, Path(folder), choices.data, choices.windows)}\n")
        sys.stdout.flush()
        if choices.raster is not None:
            sys.stdout.write(f"{compare_raster(model, Path(folder), choices.raster)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
