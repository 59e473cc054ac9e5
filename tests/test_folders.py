"""Folders of pictures as people keep them: which picture a label means, its size, and the parts of a data set."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

import geodetect as gd
from geodetect.chips.formats import read_folder
from geodetect.chips.formats.deepforest import on_map
from geodetect.chips.formats.text import parse_number
from geodetect.errors import LabelsError
from tests.fakes import PaintedScene, write_raster
from tests.test_formats import boxes_of, text, thing, voc

SIDE = 64
BOX = "0 0.375 0.375 0.25 0.25\n"  # 16, 16, 32, 32 of 64 px


def pictures(*paths: Path, shape: tuple[int, int] = (SIDE, SIDE), **options: object) -> None:
    """Grey pictures in the formats of their suffixes."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(path, **options)


def yolo(root: Path, *stems: str, images: str = "images", labels: str = "labels", line: str = BOX) -> None:
    """Pictures with a label each."""
    for stem in stems:
        pictures(root / images / f"{stem}.png")
        text(root / labels / f"{stem}.txt", line)


def coco(
    path: Path, names: Sequence[str], box: Sequence[float] = (16, 16, 16, 16), shape: tuple[int, int] = (SIDE, SIDE)
) -> Path:
    """A COCO file of these pictures, each with a box of class `roof`."""
    height, width = shape
    content = {
        "images": [{"id": i, "file_name": name, "width": width, "height": height} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": list(box)} for i, _ in enumerate(names)],
        "categories": [{"id": 1, "name": "roof"}],
    }
    return text(path, json.dumps(content))


def names_in(chips: gd.chips.Chips) -> list[str]:
    """Names of the pictures of chips, each once."""
    return sorted({plan.reader.path.name for plan in chips.plans})


def parts(data: gd.chips.DetectionData) -> tuple[list[str], list[str], list[str]]:
    """The pictures that train, validate, and are left out."""
    return names_in(data.train), names_in(data.valid), names_in(data.left_out)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_boxes_lie_on_what_viewers_show(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = np.full((200, 120, 3), 20, np.uint8)
    upright[20:50, 70:110] = 220  # x 70 to 110, y 20 to 50, as it is shown
    # How each orientation is stored: https://pillow.readthedocs.io/en/stable/reference/ImageOps.html
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = Image.fromarray(upright)
    stored = stored if orientation == 1 else stored.transpose(Image.Transpose(undo[orientation]))
    tags = Image.Exif()
    tags[274] = orientation
    for stem in "abc":
        (tmp_path / "images").mkdir(exist_ok=True)
        stored.save(tmp_path / f"images/{stem}.jpg", exif=tags, quality=95)
        if kind == "yolo":
            text(tmp_path / f"labels/{stem}.txt", f"0 {90 / 120} {35 / 200} {40 / 120} {30 / 200}\n")
        if kind == "voc":
            size = "<size><width>120</width><height>200</height></size>"
            text(tmp_path / f"labels/{stem}.xml", voc(size, thing("roof", 70, 20, 110, 50), filename=f"{stem}.jpg"))
    if kind == "coco":
        coco(tmp_path / "labels.json", ["a.jpg", "b.jpg", "c.jpg"], (70, 20, 40, 30), (200, 120))
    data = gd.prepare_data(tmp_path)
    for chip in [*data.train, *data.valid]:
        (x1, y1, x2, y2) = chip.boxes.xyxy[0].round().astype(int)
        assert (x1, y1, x2, y2) == (70, 20, 110, 50)
        assert chip.pixels[:, y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].min() > 180
        assert chip.pixels.mean() == pytest.approx(20 + 200 * 1200 / 24000, abs=2)
    assert ("images rotated by their Exif orientation: 3" in data.report) == (orientation > 1)


def test_labels_of_the_stored_picture_are_told_by_their_size(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[274] = 6
    pictures(tmp_path / "a.jpg", tmp_path / "b.jpg", shape=(120, 200), exif=tags)
    coco(tmp_path / "labels.json", ["a.jpg", "b.jpg"], (10, 20, 40, 30), (120, 200))
    data = gd.prepare_data(tmp_path)
    assert data.train[0].pixels.shape == (3, 120, 200)
    assert data.train[0].boxes.xyxy.tolist() == [[10, 20, 50, 50]]
    assert "Exif" not in data.report


# Which picture a label means


@pytest.mark.parametrize("preview", ["images/{}.jpg", "images/{}.JPEG", "thumbs/{}.png", "previews/{}.jpg"])
def test_a_preview_of_a_labelled_picture_is_no_picture_of_nothing(tmp_path: Path, preview: str) -> None:
    yolo(tmp_path, "a", "b")
    for stem in "ab":
        pictures(tmp_path / preview.format(stem), shape=(8, 8), quality=5)
    data = gd.prepare_data(tmp_path)
    assert [len(plan.boxes) for plan in data.plans] == [1, 1]
    assert {plan.reader.path.parent.name for plan in data.plans} == {"images"}
    assert {plan.grid.shape for plan in data.plans} == {(SIDE, SIDE)}  # the larger picture
    assert "left out: 2" in data.report


@pytest.mark.parametrize(
    ("labels", "kind"), [("labels/{}.txt", "yolo"), ("Annotations/{}.xml", "voc"), ("label_2/{}.txt", "kitti")]
)
def test_a_picture_called_like_a_label_is_no_picture_of_nothing(tmp_path: Path, labels: str, kind: str) -> None:
    content = {
        "yolo": BOX,
        "voc": voc(thing("roof", 16, 16, 32, 32), filename=""),
        "kitti": "roof 0 0 0 16 16 32 32 0 0 0 0 0 0 0\n",
    }[kind]
    for stem in ("a", "b"):
        pictures(tmp_path / f"images/{stem}.png", tmp_path / f"images/{stem}.tif")
        text(tmp_path / labels.format(stem), content)
    pictures(tmp_path / "images/empty.png")
    data = gd.prepare_data(tmp_path, dataset_type=kind)
    assert sorted(len(plan.boxes) for plan in data.plans) == [0, 1, 1]
    assert "images of the same name as" in data.report


@pytest.mark.parametrize(
    "copy", ["a (1).png", "a - Copy.png", "a - Kopie (2).png", "a_thumb.jpg", "thumb_a.png", "A copy.PNG"]
)
def test_a_copy_of_a_labelled_picture_is_no_picture_of_nothing(tmp_path: Path, copy: str) -> None:
    yolo(tmp_path, "a", "b", "a_1")
    pictures(tmp_path / "images" / copy, tmp_path / "images/a_2.png")
    found = {name: len(boxes) for name, boxes in boxes_of(read_folder(tmp_path)).items()}
    assert found == {"a.png": 1, "b.png": 1, "a_1.png": 1, "a_2.png": 0}


@pytest.mark.parametrize(
    ("name", "content", "n_bare"),
    [
        ("b.xml", voc(thing("roof", 1, 2, 3, 4)), 0),
        ("labels/b.json", '{"shapes": [{"label": "roof"}]}', 0),
        ("b.xml", "<metadata/>", 1),
        ("b.tif.xml", "<metadata/>", 1),
        ("other/b.xml", voc(thing("roof", 1, 2, 3, 4)), 0),
    ],
)
def test_a_picture_with_a_label_of_another_format_is_no_picture_of_nothing(
    tmp_path: Path, name: str, content: str, n_bare: int
) -> None:
    yolo(tmp_path, *"acdefg")
    pictures(tmp_path / "images/b.png")
    text(tmp_path / name, content)
    assert [each.labelled for each in read_folder(tmp_path, "yolo").images].count(False) == n_bare


def test_folders_that_are_links_are_read_but_not_in_circles(tmp_path: Path) -> None:
    yolo(tmp_path / "disk", "a", "b")
    (tmp_path / "ds").mkdir()
    for name in ("images", "labels"):
        (tmp_path / "ds" / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "ds/all").symlink_to(tmp_path / "ds")
    assert sorted(boxes_of(read_folder(tmp_path / "ds"))) == ["a.png", "b.png"]
    assert len(read_folder(tmp_path / "ds").images) == 2


def test_an_annotation_is_of_the_picture_called_like_it_whatever_it_names(tmp_path: Path) -> None:
    pictures(*(tmp_path / f"{stem}.png" for stem in "abcd"))
    text(tmp_path / "a.xml", voc(thing("roof", 1, 1, 9, 9), filename="a.png"))
    text(tmp_path / "b.xml", voc(thing("roof", 2, 2, 9, 9), filename="a.png"))  # copied, and the name left as it was
    text(tmp_path / "c.xml", voc(thing("roof", 3, 3, 9, 9), filename="b.png"))  # renumbered
    text(tmp_path / "7.xml", voc(thing("roof", 4, 4, 9, 9), filename="C:\\data\\d.png"))  # called by a number
    found = read_folder(tmp_path)
    corners = {name: boxes[0][1][0] for name, boxes in boxes_of(found).items()}
    assert corners == {"a.png": 1, "b.png": 2, "c.png": 3, "d.png": 4}
    assert found.report == "annotations that name another image than the one called like them, which counts: 2"


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("im0.tif.png", "im0.tif.txt"),
        ("im0.tif", "im0.tif.txt"),
        ("im0.tif.png", "im0.txt"),
        ("IM_0.JPG", "im_0.TXT"),
        ("im0.v2.png", "im0.v2.txt"),
        (unicodedata.normalize("NFD", "größe.png"), unicodedata.normalize("NFC", "größe.txt")),
        (unicodedata.normalize("NFC", "größe.png"), unicodedata.normalize("NFD", "größe.txt")),
        ("my roof (1).png", "my roof (1).txt"),
    ],
)
def test_names_that_systems_and_programs_change(tmp_path: Path, picture: str, label: str) -> None:
    pictures(tmp_path / picture, tmp_path / "b.png")
    text(tmp_path / label, BOX)
    text(tmp_path / "b.txt", BOX)
    assert boxes_of(read_folder(tmp_path))[picture] == [("0", [16, 16, 32, 32])]


def test_of_pictures_with_suffixes_in_their_names_each_has_its_own_label(tmp_path: Path) -> None:
    for i, stem in enumerate(("im", "im.tif", "im.jpg")):
        pictures(tmp_path / f"{stem}.png")
        text(tmp_path / f"{stem}.txt", f"{i} 0.5 0.5 0.5 0.5\n")
    found = {name: boxes[0][0] for name, boxes in boxes_of(read_folder(tmp_path)).items()}
    assert found == {"im.png": "0", "im.tif.png": "1", "im.jpg.png": "2"}


def test_coco_names_in_another_unicode_form_and_case(tmp_path: Path) -> None:
    pictures(tmp_path / "images" / unicodedata.normalize("NFD", "Öl.png"), tmp_path / "images/b.png")
    coco(tmp_path / "labels.json", [unicodedata.normalize("NFC", "öl.PNG"), "D:\\chips\\b.png"])
    assert {len(boxes) for boxes in boxes_of(read_folder(tmp_path)).values()} == {1}
    assert read_folder(tmp_path).report == ""


def test_a_picture_that_coco_lists_twice_has_the_boxes_of_both(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png")
    path = coco(tmp_path / "labels.json", ["a.png", "a.png"])
    content = json.loads(path.read_text())
    content["annotations"][1]["bbox"] = [40, 40, 8, 8]
    content["annotations"][0]["image_id"] = "0"  # as some programs write numbers
    text(path, json.dumps(content))
    assert [box for _, box in boxes_of(read_folder(tmp_path))["a.png"]] == [[16, 16, 32, 32], [40, 40, 48, 48]]


def test_files_that_disagree_about_a_picture_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png", tmp_path / "b.png")
    coco(tmp_path / "old.json", ["a.png", "b.png"], (1, 2, 30, 40))
    coco(tmp_path / "new.json", ["a.png", "b.png"])
    with pytest.raises(LabelsError, match=r"new\.json and .*old\.json both list a\.png, with other boxes; keep"):
        read_folder(tmp_path)
    text(tmp_path / "old.json", (tmp_path / "new.json").read_text())  # a copy does no harm
    assert len(read_folder(tmp_path).images) == 2


def test_of_two_files_the_one_with_boxes_counts(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png")
    bare = coco(tmp_path / "a_info.json", ["a.png"])
    text(bare, json.dumps(json.loads(bare.read_text()) | {"annotations": []}))
    coco(tmp_path / "labels.json", ["a.png"])
    assert len(boxes_of(read_folder(tmp_path))["a.png"]) == 1


def test_boxes_that_stand_twice_count_once(tmp_path: Path) -> None:
    yolo(tmp_path, "a", "b", line=BOX + "1 0.375 0.375 0.25 0.25\n" + BOX)
    data = gd.prepare_data(tmp_path)
    assert [sorted(plan.boxes.labels.tolist()) for plan in data.plans] == [[0, 1], [0, 1]]
    assert "duplicate boxes: 2" in data.report


# Pictures that were resized


def _voc_of(width: int, height: int) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        for stem in "ab":
            text(root / f"{stem}.xml", voc(size, thing("roof", 40, 20, 80, 60), filename=f"{stem}.png"))

    return write


def _coco_of(width: int, height: int) -> Callable[[Path], None]:
    return lambda root: coco(root / "labels.json", ["a.png", "b.png"], (40, 20, 40, 40), (height, width))


@pytest.mark.parametrize("write", [_voc_of, _coco_of])
@pytest.mark.parametrize(
    ("labelled", "stored", "box"),
    [
        ((200, 100), (100, 50), [20, 10, 40, 30]),
        ((100, 75), (400, 300), [160, 80, 320, 240]),
        ((201, 100), (100, 50), [40 * 100 / 201, 10, 80 * 100 / 201, 30]),
        ((100, 75), (100, 75), [40, 20, 80, 60]),
    ],
)
def test_boxes_follow_a_picture_that_was_resized(
    tmp_path: Path,
    write: Callable[[int, int], Callable[[Path], None]],
    labelled: tuple[int, int],
    stored: tuple[int, int],
    box: list[float],
) -> None:
    pictures(tmp_path / "a.png", tmp_path / "b.png", shape=stored[::-1])
    write(*labelled)(tmp_path)
    data = gd.prepare_data(tmp_path)
    assert data.train[0].boxes.xyxy == pytest.approx(np.array([box]))
    assert ("images resized since they were labelled, their boxes too: 2" in data.report) == (labelled != stored)


@pytest.mark.parametrize("write", [_voc_of, _coco_of])
@pytest.mark.parametrize("labelled", [(100, 100), (75, 100), (100, 60), (640, 64)])
def test_boxes_of_a_picture_that_was_cut_or_squeezed_are_refused(
    tmp_path: Path, write: Callable[[int, int], Callable[[Path], None]], labelled: tuple[int, int]
) -> None:
    pictures(tmp_path / "a.png", tmp_path / "b.png", shape=(75, 100))
    write(*labelled)(tmp_path)
    told = rf"a\.png has 100 x 75 px and its labels are of an image of {labelled[0]} x {labelled[1]} px.*1 more"
    with pytest.raises(LabelsError, match=told):
        gd.prepare_data(tmp_path)


def test_a_size_that_nobody_knows_says_nothing(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png", tmp_path / "b.png", shape=(75, 100))
    _voc_of(0, 0)(tmp_path)
    assert gd.prepare_data(tmp_path).train[0].boxes.xyxy.tolist() == [[40, 20, 80, 60]]


# Parts of a data set


def roboflow_yolo(root: Path) -> None:
    for part, stems in (("train", "ab"), ("valid", "c"), ("test", "d")):
        yolo(root / part, *stems)
    text(root / "data.yaml", "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: ['roof']\n")


def roboflow_coco(root: Path) -> None:
    for part, stems in (("train", "ab"), ("valid", "c"), ("test", "d")):
        pictures(*(root / part / f"{stem}.png" for stem in stems))
        coco(root / part / "_annotations.coco.json", [f"{stem}.png" for stem in stems])


def roboflow_voc(root: Path) -> None:
    for part, stems in (("train", "ab"), ("valid", "c"), ("test", "d")):
        for stem in stems:
            pictures(root / part / f"{stem}.png")
            text(root / part / f"{stem}.xml", voc(thing("roof", 16, 16, 32, 32), filename=f"{stem}.png"))


def roboflow_csv(root: Path) -> None:
    for part, stems in (("train", "ab"), ("valid", "c"), ("test", "d")):
        pictures(*(root / part / f"{stem}.png" for stem in stems))
        rows = "".join(f"{stem}.png,64,64,roof,16,16,32,32\n" for stem in stems)
        text(root / part / "_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + rows)


def ultralytics(root: Path) -> None:
    for part, stems in (("train", "ab"), ("val", "c"), ("test", "d")):
        yolo(root, *stems, images=f"images/{part}", labels=f"labels/{part}")
    text(root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n  0: roof\n")


def ultralytics_of_any_names(root: Path) -> None:
    for place, stems in (("north", "a"), ("east", "b"), ("south", "c"), ("west", "d")):
        yolo(root, *stems, images=f"images/{place}", labels=f"labels/{place}")
    parts = "train: [images/north, images/east]\nval: images/south\ntest: /home/me/ds/images/west\n"
    text(root / "data.yaml", f"path: ../datasets/ds\n{parts}names: [roof]\n")


def ultralytics_with_texts(root: Path) -> None:
    yolo(root, *"abcd")
    text(root / "data.yaml", "train: autosplit_train.txt\nval: lists/b.txt\ntest: lists/c.txt\nnames: [roof]\n")
    text(root / "autosplit_train.txt", "./images/a.png\r\n./images/b.png\r\n")
    text(root / "lists/b.txt", "/data/ds/images/c.png\n")
    text(root / "lists/c.txt", "C:\\ds\\images\\d.png\n")


def darknet(root: Path) -> None:
    for stem in "abcd":
        pictures(root / f"obj_data/{stem}.png")
        text(root / f"obj_data/{stem}.txt", BOX)
    text(root / "obj.data", "classes = 1\ntrain = data/1.txt\nvalid = data/2.txt\ntest=data/3.txt\nnames = obj.names\n")
    text(root / "1.txt", "data/obj_data/a.png\ndata/obj_data/b.png\n")
    text(root / "2.txt", "data/obj_data/c.png\n")
    text(root / "3.txt", "data/obj_data/d.png\n")
    text(root / "obj.names", "roof\n")


def cvat_darknet(root: Path) -> None:
    for part, stems in (("train", "ab"), ("valid", "c"), ("test", "d")):
        for stem in stems:
            pictures(root / f"obj_{part}_data/{stem}.png")
            text(root / f"obj_{part}_data/{stem}.txt", BOX)
    text(root / "obj.names", "roof\n")


def coco_2017(root: Path) -> None:
    for part, stems in (("train", "ab"), ("val", "c")):
        names = [f"{stem}.png" for stem in stems]
        pictures(*(root / f"{part}2017" / name for name in names))
        coco(root / f"annotations/instances_{part}2017.json", names)
    pictures(root / "test2017/d.png")
    test = coco(root / "annotations/image_info_test2017.json", ["d.png"])
    text(test, json.dumps(json.loads(test.read_text()) | {"annotations": []}))


def coco_of_one_folder(root: Path) -> None:
    pictures(*(root / f"images/{stem}.png" for stem in "abcd"))
    coco(root / "all.json", [f"{stem}.png" for stem in "abcd"])
    for part, stems in (("train", "ab"), ("val", "c"), ("test", "d")):
        coco(root / f"city_{part}.json", [f"{stem}.png" for stem in stems])


def voc_2012(root: Path) -> None:
    for stem in "abcd":
        pictures(root / f"JPEGImages/{stem}.png")
        text(root / f"Annotations/{stem}.xml", voc(thing("roof", 16, 16, 32, 32), filename=f"{stem}.png"))
    for part, stems in (("train", "ab"), ("val", "c"), ("trainval", "abc"), ("test", "d")):
        text(root / f"ImageSets/Main/{part}.txt", "\n".join(stems) + "\n")
        text(root / f"ImageSets/Main/roof_{part}.txt", "".join(f"{stem}  1\n" for stem in "abcd"))


def kitti_splits(root: Path) -> None:
    for stem in "abcd":
        pictures(root / f"training/image_2/{stem}.png")
        text(root / f"training/label_2/{stem}.txt", "roof 0 0 0 16 16 32 32 0 0 0 0 0 0 0\n")
    for part, stems in (("train", "ab"), ("val", "c"), ("test", "d")):
        text(root / f"ImageSets/{part}.txt", "\n".join(stems))


def labels_alone_are_split(root: Path) -> None:
    for part, stems in (("train", "ab"), ("val", "c"), ("test", "d")):
        yolo(root, *stems, labels=f"labels/{part}")


LAYOUTS = [
    roboflow_yolo,
    roboflow_coco,
    roboflow_voc,
    roboflow_csv,
    ultralytics,
    ultralytics_of_any_names,
    ultralytics_with_texts,
    darknet,
    cvat_darknet,
    coco_2017,
    coco_of_one_folder,
    voc_2012,
    kitti_splits,
    labels_alone_are_split,
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", ["blocks", "random"])
def test_a_data_set_keeps_its_parts(tmp_path: Path, layout: Callable[[Path], None], split: str) -> None:
    layout(tmp_path)
    data = gd.prepare_data(tmp_path, split=split)
    tested = [] if layout is coco_2017 else ["d.png"]  # whose pictures to test on come without labels
    assert parts(data) == (["a.png", "b.png"], ["c.png"], tested)
    assert "its own split is kept: 2 images to train, 1 to validate" in data.report
    assert ("its own test part are not used: 1" in data.report) == bool(tested)
    assert all(len(plan.boxes) == 1 for plan in data.plans)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_folder_may_be_of_any_layout(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    layout(tmp_path / "other")
    yolo(tmp_path / "own", "x", "y")
    content = read_folder(tmp_path / "other")
    text(tmp_path / "own/data.yaml", f"names: [{content.classes[0]!r}]\n")
    data = gd.prepare_data(tmp_path / "own", valid_path=tmp_path / "other")
    assert parts(data) == (["x.png", "y.png"], ["c.png"], [])


@pytest.mark.parametrize(
    ("layout", "train", "valid", "test"),
    [
        (roboflow_yolo, "train", "valid", "test"),
        (roboflow_yolo, "train/images", "valid/images", "test/images"),
        (roboflow_coco, "train", "valid", "test"),
        (roboflow_voc, "train", "valid", "test"),
        (roboflow_csv, "train", "valid", "test"),
        (ultralytics, "images/train", "images/val", "images/test"),
        (ultralytics_of_any_names, "images", "images/south", "images/west"),
        (coco_2017, "train2017", "val2017", None),
    ],
)
def test_one_part_by_the_folder_of_its_pictures(
    tmp_path: Path, layout: Callable[[Path], None], train: str, valid: str, test: str | None
) -> None:
    layout(tmp_path)
    data = gd.prepare_data(tmp_path / train, valid_path=tmp_path / valid)
    assert data.classes == ["roof"]  # by the names that stand one folder up
    assert set(parts(data)[0]) >= {"a.png", "b.png"}
    assert parts(data)[1] == ["c.png"]
    if test is not None:
        assert parts(gd.prepare_data(tmp_path / train, valid_path=tmp_path / test))[1] == ["d.png"]


def test_pictures_of_two_parts_may_have_the_same_names(tmp_path: Path) -> None:
    for part, x in (("train", 1), ("val", 2)):
        pictures(tmp_path / f"{part}2017/1.png", tmp_path / f"{part}2017/2.png")
        coco(tmp_path / f"annotations/instances_{part}2017.json", ["1.png", "2.png"], (x, 16, 16, 16))
    data = gd.prepare_data(tmp_path)
    assert [part.plans[0].boxes.xyxy[0, 0] for part in (data.train, data.valid)] == [1, 2]
    data = gd.prepare_data(tmp_path / "train2017", valid_path=tmp_path / "val2017")
    assert [part.plans[0].boxes.xyxy[0, 0] for part in (data.train, data.valid)] == [1, 2]


def test_without_a_part_to_validate_on_the_one_to_train_on_is_split(tmp_path: Path) -> None:
    for part, stems in (("train", "abc"), ("test", "d")):
        yolo(tmp_path / part, *stems)
    train, valid, left_out = parts(gd.prepare_data(tmp_path))
    assert (sorted(train + valid), left_out) == (["a.png", "b.png", "c.png"], ["d.png"])
    assert train
    assert valid


def test_pictures_to_test_on_are_not_trained_on_even_if_there_are_no_others(tmp_path: Path) -> None:
    yolo(tmp_path / "test", "a", "b")
    with pytest.raises(LabelsError, match=r"test images \(2\), .* give the folder"):
        gd.prepare_data(tmp_path)
    assert len(gd.prepare_data(tmp_path / "test").plans) == 2


@pytest.mark.parametrize("entry", ["images", "images/", "./images", "."])
def test_one_folder_to_train_and_to_validate_on_is_no_split(tmp_path: Path, entry: str) -> None:
    yolo(tmp_path, *"abcde")
    text(tmp_path / "data.yaml", f"path: .\ntrain: {entry}\nval: {entry}\nnames: [roof]\n")
    data = gd.prepare_data(tmp_path)
    assert len(data.train) == 3 + 1
    assert len(data.valid) == 1
    assert "own split" not in data.report


def test_names_that_only_contain_a_part_s_name_split_nothing(tmp_path: Path) -> None:
    for place in ("test_site_1", "test_site_2", "train_station", "validated"):
        yolo(tmp_path / place, f"{place}_a", f"{place}_b")
    data = gd.prepare_data(tmp_path)
    assert len(data.plans) == 8
    assert "own" not in data.report


def test_names_in_pairs_split(tmp_path: Path) -> None:
    for place, stems in (("chips_city_train", "ab"), ("chips_city_test", "c"), ("elsewhere", "d")):
        yolo(tmp_path / place, *stems)
    data = gd.prepare_data(tmp_path)
    assert parts(data)[2] == ["c.png", "d.png"]
    assert "images in none of its own parts, left out: 1" in data.report


def test_pictures_in_no_list_are_left_out(tmp_path: Path) -> None:
    voc_2012(tmp_path)
    pictures(tmp_path / "JPEGImages/e.png")
    text(tmp_path / "Annotations/e.xml", voc(thing("roof", 16, 16, 32, 32), filename="e.png"))
    data = gd.prepare_data(tmp_path)
    assert parts(data) == (["a.png", "b.png"], ["c.png"], ["d.png", "e.png"])


def test_of_two_data_sets_one_split_and_one_not_all_are_read(tmp_path: Path) -> None:
    voc_2012(tmp_path / "VOC2007")
    for stem in "xyz":
        pictures(tmp_path / f"more/{stem}.png")
        text(tmp_path / f"more/{stem}.xml", voc(thing("roof", 16, 16, 32, 32), filename=f"{stem}.png"))
    assert parts(gd.prepare_data(tmp_path)) == (["a.png", "b.png", "x.png", "y.png", "z.png"], ["c.png"], ["d.png"])


def test_a_part_to_validate_on_without_an_object_is_kept_and_told(tmp_path: Path) -> None:
    yolo(tmp_path / "train", *"ab")
    yolo(tmp_path / "val", "c", line="")
    data = gd.prepare_data(tmp_path)
    assert parts(data)[1] == ["c.png"]
    assert "no validation chip holds a box" in data.report


def test_the_own_part_makes_room_for_a_second_folder(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path / "a")
    yolo(tmp_path / "b", "x")
    text(tmp_path / "b/classes.txt", "roof\n")
    data = gd.prepare_data(tmp_path / "a", valid_path=tmp_path / "b")
    assert parts(data) == (["a.png", "b.png"], ["x.png"], ["c.png", "d.png"])
    assert "its own validation part is not used" in data.report


def test_versions_of_one_picture_stay_together(tmp_path: Path) -> None:
    stems = [f"im{i}_jpg.rf.{chr(97 + version) * 32}" for i in range(6) for version in range(3)]
    yolo(tmp_path, *stems)
    for split in ("blocks", "random"):
        for seed in range(5):
            data = gd.prepare_data(tmp_path, split=split, seed=seed)
            train, valid = ({name.split("_")[0] for name in part} for part in parts(data)[:2])
            assert not train & valid
            assert len(train | valid) == 6
    assert "copies of other images by Roboflow, which a split keeps together: 18" in data.report


def test_a_list_of_thousands_is_quickly_read(tmp_path: Path) -> None:
    names = [f"{i:06d}" for i in range(3000)]
    (tmp_path / "JPEGImages").mkdir()
    for name in names:
        (tmp_path / f"JPEGImages/{name}.jpg").touch()
        text(tmp_path / f"Annotations/{name}.xml", voc(thing("roof", 1, 1, 9, 9), filename=f"{name}.jpg"))
    text(tmp_path / "ImageSets/Main/train.txt", "\n".join(names[:2000]))
    text(tmp_path / "ImageSets/Main/val.txt", "\n".join(names[2000:] + [f"gone{i}" for i in range(3000)]))
    found = read_folder(tmp_path)
    assert [each.part for each in found.images] == ["train"] * 2000 + ["valid"] * 1000


# Formats that are not read


CVAT = '<?xml version="1.0"?><annotations><version>1.1</version><image id="0" name="a.png"/></annotations>'
LABELME = '{"version": "5.0", "shapes": [{"label": "roof", "points": [[1, 2], [3, 4]]}], "imagePath": "a.png"}'
VIA = '{"a.png123": {"filename": "a.png", "regions": [{"shape_attributes": {"name": "rect"}}]}}'
VIA_CSV = '#filename,file_size,region_count,region_shape_attributes\na.png,1,1,"{""name"":""rect""}"\n'


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("annotations.xml", CVAT, r'annotations\.xml holds labels of CVAT.*export .* as "COCO 1\.0"'),
        ("a.json", LABELME, r"a\.json holds labels of labelme.*to COCO"),
        ("via_region_data.json", VIA, r"via_region_data\.json holds labels of VIA.*as COCO"),
        ("via_region_data.csv", VIA_CSV, r"via_region_data\.csv holds labels of VIA.*as COCO"),
    ],
)
def test_formats_of_other_programs_are_refused_with_the_way_out(
    tmp_path: Path, name: str, content: str, told: str
) -> None:
    pictures(tmp_path / "images/a.png")
    text(tmp_path / name, content)
    with pytest.raises(LabelsError, match=told):
        gd.prepare_data(tmp_path)


# DeepForest


@pytest.mark.parametrize(
    "content",
    [
        "image_path,xmin,ymin,xmax,ymax,label\na.png,1,2,30,40,Tree\nb.png,5.5,6,20,21,Dead\nc.png,0,0,0,0,Tree\n",
        "﻿image_path;xmin;ymin;xmax;ymax;label\r\na.png;1;2;30;40;Tree\r\nb.png;5,5;6;20;21;Dead\r\nc.png;;;;;\r\n",
        '"label","image","xmin","xmax","ymin","ymax"\n"Tree","a.png",1,30,2,40\nDead,b.png,5.5,20,6,21\n',
    ],
)
def test_a_csv_as_deepforest_has_it(tmp_path: Path, content: str) -> None:
    pictures(*(tmp_path / f"{stem}.png" for stem in "abc"))
    text(tmp_path / "trees.csv", content)
    found = boxes_of(read_folder(tmp_path))
    assert found.pop("c.png", []) == []
    assert found == {"a.png": [("Tree", [1, 2, 30, 40])], "b.png": [("Dead", [5.5, 6, 20, 21])]}
    assert gd.prepare_data(tmp_path).classes == ["Dead", "Tree"]


def test_a_csv_labels_the_raster_that_it_names(scenes: dict[str, PaintedScene], tmp_path: Path) -> None:
    scene = scenes["rotated"]
    rows = [f"x/{scene.path.stem}.PNG,{','.join(map(str, box))},Tree" for box in scene.boxes.xyxy]
    path = text(
        tmp_path / "trees.csv", "\n".join(["image_path,xmin,ymin,xmax,ymax,label", *rows, "b.png,1,2,3,4,Tree"])
    )
    for raster in (scene.path, [scene.path]):
        with pytest.warns(UserWarning, match=r"trees\.csv .* b\.png"):
            labels = on_map(path, raster)
        assert np.allclose(shapely.area(labels.geometry), shapely.area(scene.truth.geometry), rtol=1e-9)
        assert np.allclose(labels.geometry.centroid.get_coordinates(), scene.truth.geometry.centroid.get_coordinates())
    with pytest.warns(UserWarning, match=r"trees\.csv .* b\.png"):
        assert gd.prepare_data(scene.path, path, chip_size=64).classes == ["Tree"]
    with pytest.raises(LabelsError, match=r"lists boxes of b\.png; got .*\.tif"):
        on_map(text(path, "image_path,xmin,ymin,xmax,ymax,label\nb.png,1,2,3,4,Tree\n"), scene.path)
    with pytest.raises(LabelsError, match="its boxes are in pixels"):
        gd.compute_accuracy(path, path)


def test_a_csv_labels_a_picture_without_a_place(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png")
    path = text(tmp_path / "a.csv", "image_path,xmin,ymin,xmax,ymax,label,width,height\na.png,2,4,20,24,Tree,128,128\n")
    assert on_map(path, tmp_path / "a.png").total_bounds.tolist() == [1, 2, 10, 12]  # half as wide as it was


@pytest.mark.parametrize("name", ["a.csv", "data.yaml", "instances.json"])
def test_a_file_of_labels_is_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabelsError, match=f"got the file .*{name}; give the folder of labels and images"):
        gd.prepare_data(text(tmp_path / name, "a"))


def test_a_csv_whose_corners_are_no_numbers(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png")
    text(tmp_path / "trees.csv", "image_path,xmin,ymin,xmax,ymax,label\na.png,1,2,30,,Tree\n")
    with pytest.raises(LabelsError, match=r"line 2 of .*trees\.csv is no box: expected numbers for xmin, ymin"):
        read_folder(tmp_path)


# Texts


@pytest.mark.parametrize("encoding", ["GBK", "gb2312", "gb18030", "Big5", "Shift_JIS", "utf-16", "UTF-8", "EUC-KR"])
def test_voc_in_the_encoding_that_it_declares(tmp_path: Path, encoding: str) -> None:
    name = {"Big5": "房屋", "Shift_JIS": "プール", "EUC-KR": "지붕"}.get(encoding, "泳池")
    pictures(tmp_path / "a.png")
    declared = f'<?xml version="1.0" encoding="{encoding}"?>\n'
    (tmp_path / "a.xml").write_bytes((declared + voc(thing(name, 1, 2, 30, 40))).encode(encoding))
    assert boxes_of(read_folder(tmp_path)) == {"a.png": [(name, [1, 2, 30, 40])]}


def test_voc_in_latin_1(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png")
    for encoding in ("ISO-8859-1", "windows-1252"):
        declared = f"<?xml version='1.0' encoding='{encoding}'?>\n"
        (tmp_path / "a.xml").write_bytes((declared + voc(thing("Bäume", 1, 2, 30, 40))).encode(encoding))
        assert boxes_of(read_folder(tmp_path)) == {"a.png": [("Bäume", [1, 2, 30, 40])]}


@pytest.mark.parametrize(
    "content",
    [
        voc(thing("泳池", 1, 2, 30, 40)).encode("gbk"),
        ('<?xml version="1.0" encoding="UTF-8"?>' + voc(thing("泳池", 1, 2, 30, 40))).encode("gbk"),
        ('<?xml version="1.0" encoding="klingon"?>' + voc(thing("a", 1, 2, 30, 40))).encode(),
    ],
)
def test_voc_in_another_encoding_than_it_declares_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    pictures(tmp_path / "a.png")
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(LabelsError, match=r"a\.xml cannot be read as XML: .*its declaration must name its encoding"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "Bäume\r\n  泳池  \r\n".encode()),
        ("classes.txt", "\ufeffBäume\n泳池\n".encode()),
        ("classes.txt", "Bäume\r\n泳池\r\n".encode("utf-16")),
        ("data.yaml", "names: ['Bäume', 泳池]\n".encode("utf-16")),
        ("DATA.YAML", "names:\r\n  0: Bäume\r\n  1: 泳池\r\n".encode()),
        ("obj.NAMES", "Bäume\r泳池\r".encode()),
    ],
)
def test_names_of_classes_in_any_unicode(tmp_path: Path, name: str, content: bytes) -> None:
    pictures(tmp_path / "a.PNG")
    text(tmp_path / "a.TXT", "1 0,5 0,5 0,25 0,5  \r\n\r\n0 0.25 0.25 0.5 0.5\t\r\n")
    (tmp_path / name).write_bytes(content)
    assert boxes_of(read_folder(tmp_path)) == {"a.PNG": [("泳池", [24, 16, 40, 48]), ("Bäume", [0, 0, 32, 32])]}


def test_names_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png")
    text(tmp_path / "a.txt", "".join(f"{i} 0.5 0.5 0.5 0.5\n" for i in range(5)))
    text(tmp_path / "data.yaml", "names: [no, yes, null, 1.0, 'on']\n")
    assert read_folder(tmp_path).classes == ["no", "yes", "null", "1.0", "on"]
    text(tmp_path / "data.yaml", "names: roof\n")
    with pytest.raises(LabelsError, match="does not name classes: expected `names` with a list"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "泳池\n".encode("gbk")),
        ("classes.txt", b"a\x00b\n"),
        ("data.yaml", b'"names": ["a\\u0000b"]\n'),
        ("data.yaml", b'"names": ["a\\u0007"]\n'),
        ("data.yaml", b'"names": ["a\\u2028b"]\n'),
    ],
)
def test_names_that_are_no_text_are_refused_in_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    yolo(tmp_path, "a", "b")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabelsError, match=r"must be one line of text .*; save its labels as UTF-8, or rename"):
        gd.prepare_data(tmp_path)
    assert gd.prepare_data(tmp_path, class_mapping={0: "roof"}).classes == ["roof"]


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "\ud800", "a\x7f", "\ufffe", "tab\t"])
def test_names_in_json_that_are_no_text_are_refused(tmp_path: Path, name: str) -> None:
    pictures(tmp_path / "a.png", tmp_path / "b.png")
    path = coco(tmp_path / "labels.json", ["a.png", "b.png"])
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = name
    text(path, json.dumps(content))
    with pytest.raises(LabelsError, match="must be one line of text") as refused:
        gd.prepare_data(tmp_path)
    assert str(refused.value).isprintable()
    assert gd.prepare_data(tmp_path, class_mapping={1: "roof"}).classes == ["roof"]


def test_a_label_in_gbk_without_a_word_of_it_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png", tmp_path / "b.png")
    for stem in "ab":
        (tmp_path / f"{stem}.txt").write_bytes("泳池 0 0 0 16 16 32 32 0 0 0 0 0 0 0\n".encode("gbk"))
    with pytest.raises(LabelsError, match="save its labels as UTF-8"):
        gd.prepare_data(tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Tree", "tree"),
        ("swimming pool", "swimming_pool"),
        (unicodedata.normalize("NFC", "Bäume"), unicodedata.normalize("NFD", "Bäume")),
        ("car", "car  "),
    ],
)
def test_classes_that_look_alike_are_told(tmp_path: Path, first: str, second: str) -> None:
    yolo(tmp_path, "a", "b", line=BOX + "1 0.75 0.75 0.25 0.25\n")
    text(tmp_path / "data.yaml", f"names: {json.dumps([first, second], ensure_ascii=False)}\n")
    with pytest.warns(UserWarning, match=r"count as several classes; if they are one, give class_mapping=\{") as told:
        assert len(gd.prepare_data(tmp_path).classes) == 2
    assert told[0].filename == __file__
    assert gd.prepare_data(tmp_path, class_mapping={0: "x", 1: "x"}).classes == ["x"]


@pytest.mark.parametrize(
    ("line", "name", "box"),
    [
        ("Zone 7 0.00 0 -1.57 10.5 20 30 40.25 1 1 1 1 1 1 1", "Zone 7", [10.5, 20, 30, 40.25]),
        ("Zone 1 0.00 0 0.00 10 20 30 40 0 0 0 0 0 0 0", "Zone 1", [10, 20, 30, 40]),
        ("Zone 0 0 0 0 10 20 30 40 0 0 0 0 0 0 0", "Zone 0", [10, 20, 30, 40]),
        ("plot 3 7 0.00 0 0.00 10 20 30 40 0 0 0 0 0 0 0", "plot 3 7", [10, 20, 30, 40]),
        ("fire truck 0.00 0 -1.57 10 20 30 40 1.5 1.6 4 1 2 30 -1.6 0.9", "fire truck", [10, 20, 30, 40]),
        ("Car 0.00 2 -1.57 10 20 30 40 1.5 1.6 4 1 2 30 -1.6", "Car", [10, 20, 30, 40]),
        ("Car -1 -1 -10 10 20 30 40 -1 -1 -1 -1000 -1000 -1000 -10 0.31", "Car", [10, 20, 30, 40]),
        ("12 0,00 0 0,00 10,5 20 30 40 0 0 0 0 0 0 0", "12", [10.5, 20, 30, 40]),
    ],
)
def test_a_class_of_kitti_may_end_in_a_number(tmp_path: Path, line: str, name: str, box: list[float]) -> None:
    pictures(tmp_path / "a.png")
    text(tmp_path / "a.txt", line + "\n")
    assert boxes_of(read_folder(tmp_path, "kitti")) == {"a.png": [(name, box)]}
    assert boxes_of(read_folder(tmp_path)) == {"a.png": [(name, box)]}


@pytest.mark.parametrize(("told", "value"), [("1,5", 1.5), (" 2.50 ", 2.5), ("-3e2", -300), ("7", 7)])
def test_numbers_with_a_point_or_a_comma(told: str, value: float) -> None:
    assert parse_number(told) == value


@pytest.mark.parametrize("told", ["1,234.5", "1_0", "", "1,2,3", "x"])
def test_what_is_no_number(told: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        parse_number(told)


def test_voc_with_decimal_commas(tmp_path: Path) -> None:
    pictures(tmp_path / "a.png")
    text(tmp_path / "a.xml", voc(thing("roof", "1,5", "2", "30,25", "40")))  # type: ignore[arg-type]
    assert boxes_of(read_folder(tmp_path)) == {"a.png": [("roof", [1.5, 2, 30.25, 40])]}


@pytest.mark.parametrize(
    "row",
    [
        "images\\{0}.tif labels\\{0}.xml ",
        "images/{0}.tif  labels/{0}.xml",
        "C:\\My Data\\out\\images\\{0}.tif C:\\My Data\\out\\labels\\{0}.xml",
        "Images\\{0}.TIF  Labels\\{0}.XML  masks\\{0}.tif",
        "images\\{0}.tif images2\\{0}.tif labels\\{0}.xml",
    ],
)
def test_rows_of_arcgis_map_with_any_folders(tmp_path: Path, row: str) -> None:
    stems = ["000 0", "0001"]
    for stem in stems:
        (tmp_path / "images").mkdir(exist_ok=True)
        write_raster(tmp_path / f"images/{stem}.tif", np.full((3, SIDE, SIDE), 90, np.uint8))
        text(tmp_path / f"labels/{stem}.xml", voc(thing("1", 1, 2, 30, 40)))
    text(tmp_path / "Map.txt", "\r\n".join(row.format(stem) for stem in stems))
    found = read_folder(tmp_path)
    assert {len(names) for names in boxes_of(found).values()} == {1}
    assert len(found.images) == 2
    assert found.report == "no name is given for the classes 1"
