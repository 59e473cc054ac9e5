"""Folders that we wrote, opened by the programs that they are for, where these are installed."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torchvision
from pycocotools.coco import COCO

import geodetect as gd
from geodetect.chips.formats import FORMATS, Folder, read_folder
from geodetect.grid import Grid
from tests.fakes import UPRIGHT, UTM, write_raster


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scene of bytes with 30 boxes of two classes, cut into chips of each format."""
    folder = tmp_path_factory.mktemp("exports")
    rng = np.random.default_rng(3)
    grid = Grid((256, 256), UPRIGHT, UTM)
    write_raster(folder / "scene.tif", rng.integers(1, 255, (3, 256, 256), dtype=np.uint8), grid)
    corners = rng.permutation([(x, y) for x in range(3, 240, 32) for y in range(3, 240, 32)])[:30]
    boxes = shapely.box(*np.hstack([corners, corners + rng.integers(6, 24, (30, 2))]).T)
    labels = gpd.GeoDataFrame({"label": ["swimming-pool", "car"] * 15}, geometry=boxes, crs=None)
    labels = labels.set_geometry(shapely.transform(boxes, grid.to_map)).set_crs(UTM)
    return {
        kind: gd.export_training_data(
            folder / "scene.tif", labels, folder / kind, metadata_format=kind, chip_format="png", chip_size=64,
            negatives=9, progress=False,
        )
        for kind in FORMATS
    }  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder to work in than the one that is opened."""
    monkeypatch.chdir(tmp_path)


def counts(folder: Folder) -> Counter[str]:
    """Boxes by class."""
    return Counter(str(name) for picture in folder.images for name in picture.names)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # torchvision's arrays
def test_pycocotools_and_torchvision_read_boxes_and_masks(exports: dict[str, Path]) -> None:
    truth = read_folder(exports["coco"])
    path = exports["coco"] / "annotations/instances_default.json"
    ours = COCO(path)
    assert len(ours.imgs) == len(truth.images) == 16
    assert Counter(ours.cats[each["category_id"]]["name"] for each in ours.anns.values()) == counts(truth)
    data = torchvision.datasets.CocoDetection(exports["coco"] / "images", path)
    data = torchvision.datasets.wrap_dataset_for_transforms_v2(data, target_keys=["masks", "boxes"])
    for _, target in (data[i] for i in range(len(data))):
        for mask, (x1, y1, x2, y2) in zip(target.get("masks", ()), target.get("boxes", ()), strict=True):
            assert mask.sum() == pytest.approx(float((x2 - x1) * (y2 - y1)), rel=0.25)


@pytest.mark.usefixtures("elsewhere")
def test_ultralytics_reads_both_parts(exports: dict[str, Path]) -> None:
    utils = pytest.importorskip("ultralytics.data.utils", exc_type=ImportError)
    from ultralytics.data.dataset import YOLODataset

    content = utils.check_det_dataset(exports["yolo"] / "data.yaml", autodownload=False)
    assert content["names"] == {0: "car", 1: "swimming-pool"}
    truth = {each.path.name: each for each in read_folder(exports["yolo"]).images}
    seen = []
    for part in ("train", "val"):
        data = YOLODataset(img_path=content[part], data=content, task="detect", augment=False, imgsz=64)
        for each in data.labels:
            picture = truth[os.path.basename(each["im_file"])]
            centres, sides = each["bboxes"][:, :2], each["bboxes"][:, 2:]
            corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
            assert np.allclose(np.sort(corners, axis=0), np.sort(picture.xyxy, axis=0), atol=1e-5)
            assert [content["names"][int(label)] for label in each["cls"].ravel()] == picture.names.tolist()
            seen.append(picture.path.name)
    assert len(set(seen)) == len(seen) == 16  # chips that only touch are all in one part or the other


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_supervision_reads_all(exports: dict[str, Path], kind: str) -> None:
    data = pytest.importorskip("supervision", exc_type=ImportError).DetectionDataset
    root = exports[kind]
    found = {
        "coco": lambda: data.from_coco(root / "images", root / "labels.json"),
        "voc": lambda: data.from_pascal_voc(root / "images", root / "Annotations"),
        "yolo": lambda: data.from_yolo(root / "images", root / "labels", root / "data.yaml"),
    }[kind]()
    names = Counter(found.classes[label] for _, _, boxes in found for label in boxes.class_id)
    assert len(found) == 16
    assert names == counts(read_folder(root))


def test_supervision_reads_corners(exports: dict[str, Path]) -> None:
    data = pytest.importorskip("supervision", exc_type=ImportError).DetectionDataset
    root = exports["yolo_obb"]
    found = data.from_yolo(root / "images", root / "labels", root / "data.yaml", is_obb=True)
    truth = {each.path.name: each for each in read_folder(root).images}
    assert len(found) == len(truth) == 16
    for path, _, boxes in found:
        image = truth[Path(path).name]
        assert Counter(found.classes[label] for label in boxes.class_id) == Counter(image.names.tolist())
        if len(boxes):
            corners = shapely.polygons(boxes.data["xyxyxyxy"])
            assert (shapely.hausdorff_distance(corners, image.polygons((64, 64))) < 0.01).all()


def test_datumaro_recognises_coco(exports: dict[str, Path]) -> None:
    datumaro = pytest.importorskip("datumaro")
    found = datumaro.Dataset.import_from(str(exports["coco"]))
    names = found.categories()[datumaro.AnnotationType.label]
    boxes = [each for item in found for each in item.annotations if each.type == datumaro.AnnotationType.bbox]
    assert len(found) == 16
    assert all(item.media is not None for item in found)
    assert Counter(names[box.label].name for box in boxes) == counts(read_folder(exports["coco"]))
