"""Folder formats: what was written is read back, and what other tools write is read."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geodetect as gd
from geodetect.chips.formats import FORMATS, IMAGES, Folder, Image, read_folder
from geodetect.chips.formats.listing import Listing
from geodetect.errors import ArgumentError, GeodetectError, LabelsError
from geodetect.grid import Grid
from tests.fakes import UPRIGHT, UTM, write_raster

SIDE = 64
# How far a corner may be off, in pixels of a picture of this many: decimals that are written.
PRECISION = {
    "coco": 1e-9,
    "voc": 0.005,
    "kitti": 0.005,
    "dota": 0.005,
    "esri": 0.005,
    "yolo": 0.75e-6,
    "yolo_obb": 0.5e-6,
    "deepforest": 1e-9,
}


def picture(path: Path, *, located: bool = False, side: int = SIDE) -> Path:
    """A grey picture, made for its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((3, side, side), 90, np.uint8)
    if path.suffix == ".tif":
        return write_raster(path, pixels, Grid((side, side), UPRIGHT, UTM) if located else None)
    driver = {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    return write_raster(path, pixels, driver=driver, tiled=False)


def text(path: Path, content: str) -> Path:
    """A file with this text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def voc(*boxes: str, filename: str = "a.png", head: str = "") -> str:
    """An annotation with these objects."""
    return f"{head}<annotation><filename>{filename}</filename>{''.join(boxes)}</annotation>"


def thing(name: str, *corners: float, order: str = "xmin ymin xmax ymax") -> str:
    """An object whose corners, given as x1, y1, x2, y2, stand in some order."""
    values = dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    sides = "".join(f"<{side}>{values[side]}</{side}>" for side in order.split())
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def boxes_of(folder: Folder) -> dict[str, list[tuple[str, list[float]]]]:
    """Names and corners in pixels by the pictures' names."""
    return {
        each.path.name: list(zip(each.names, each.in_pixels((SIDE, SIDE)).round(4).tolist(), strict=True))
        for each in folder.images
    }


# The law


@st.composite
def folders(draw: st.DrawFn, *, blanks: bool) -> Folder:
    """Pictures of several sizes with boxes of classes of odd names, some without a box."""
    letters = st.characters(whitelist_categories=("L", "N"), whitelist_characters=" :#'\"&<{-")
    names = st.text(letters, min_size=1, max_size=8).map(lambda name: " ".join(name.split())).filter(bool)
    odd = st.sampled_from(["0", "1", "swimming pool", "yes", "null", "1.0", "ship & boat"])
    named = st.one_of(names, odd).map(lambda name: name if blanks else name.replace(" ", "-"))
    named = named.filter(lambda name: name != "DontCare")  # which marks areas to ignore in KITTI
    classes = draw(st.lists(named, min_size=1, max_size=4, unique=True))
    pictures = []
    for number in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(8, 2000), st.integers(8, 2000)))
        share = st.floats(0, 1, width=32)
        rows = draw(st.lists(st.tuples(share, share, share, share, st.sampled_from(classes)), max_size=5))
        ends = np.array([row[:4] for row in rows], float).reshape(-1, 2, 2)
        corners = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1) * np.tile(shape[::-1], 2)
        found = np.array([row[4] for row in rows], dtype=object)
        pictures.append(Image(Path(IMAGES) / f"{number:09d}.tif", corners, found, shape))
    return Folder(pictures, classes, n_bands=3)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40)
@given(data=st.data())
def test_what_was_written_is_read_back(kind: str, data: st.DataObject) -> None:
    written = data.draw(folders(blanks=kind not in ("kitti", "dota")))  # whose columns blanks tell apart
    assert all(FORMATS[kind].can_name(name) for name in written.classes)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for each in written.images:
            text(root / each.path, "")
        for name, content in FORMATS[kind].render(written):
            text(root / name, content)
        read = FORMATS[kind].read(Listing.of(root))
    found = {each.path.name: each for each in read.images}
    assert set(found) == {each.path.name for each in written.images}
    for each in written.images:
        assert each.shape is not None
        other = found[each.path.name]
        told = each.xyxy.any(axis=1) | (kind != "deepforest")  # where a row of zeros is a picture of nothing
        assert list(other.names) == list(each.names[told])
        slack = PRECISION[kind] * (max(each.shape) if kind.startswith("yolo") else 1) + 1e-9
        assert np.abs(other.in_pixels(each.shape) - each.xyxy[told]).max(initial=0) <= slack
        assert set(read.classes) >= set(other.names)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_written_is_recognised(kind: str, tmp_path: Path) -> None:
    box = Image(Path("a.tif"), np.array([[4.0, 8, 20, 30]]), np.array(["pool"], dtype=object), (SIDE, SIDE))
    picture(tmp_path / IMAGES / "a.tif")
    for name, content in FORMATS[kind].render(Folder([box], ["pool"], n_bands=3)):
        text(tmp_path / name, content)
    assert next(name for name, each in FORMATS.items() if each.recognises(Listing.of(tmp_path))) == kind
    assert boxes_of(read_folder(tmp_path)) == {"a.tif": [("pool", [4, 8, 20, 30])]}


# What other tools write


def test_voc_in_any_order_with_a_byte_order_mark_and_fractions(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "JPEGImages" / f"{name}.png")
    labels = tmp_path / "Annotations"
    declared = '<?xml version="1.0" encoding="UTF-8"?>\n'
    text(labels / "a.xml", "\ufeff" + voc(thing("1", 0.21, 2.5, 10, 12.25, order="xmin xmax ymin ymax"), head=declared))
    text(labels / "b.xml", "\n  " + voc(thing("roof", 1, 2, 3, 4), filename="gone.png", head=declared))
    part = "<part><name>head</name><bndbox><xmin>9</xmin></bndbox></part></object>"
    text(labels / "c.xml", voc(thing("cat", 5, 6, 7, 8).replace("</object>", part), filename="c.jpg"))
    text(labels / "c.png.aux.xml", "<PAMDataset/>")
    found = read_folder(tmp_path)
    assert boxes_of(found) == {
        "a.png": [("1", [0.21, 2.5, 10, 12.25])],
        "b.png": [("roof", [1, 2, 3, 4])],
        "c.png": [("cat", [5, 6, 7, 8])],
    }
    assert found.report == ""


def _capitals(xml: str) -> str:
    return re.sub(r"</?\w+", lambda tag: tag[0].upper(), xml)


@pytest.mark.parametrize(
    "spelt",
    [
        _capitals,
        lambda xml: xml.replace("object>", "Object>").replace("xmin>", "XMin>").replace("bndbox>", "BndBox>"),
        lambda xml: xml.replace("<annotation>", '<annotation xmlns="http://example.org/voc">'),
        lambda xml: xml.replace("<object>", "<objects><object>", 1).replace("</annotation>", "</objects></annotation>"),
    ],
)
def test_voc_with_tags_in_any_spelling(tmp_path: Path, spelt: Callable[[str], str]) -> None:
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", spelt(voc(thing("roof", 1, 2, 30, 40), thing("car", 5, 6, 20, 20))))
    assert boxes_of(read_folder(tmp_path)) == {"a.png": [("roof", [1, 2, 30, 40]), ("car", [5, 6, 20, 20])]}


def test_voc_without_pictures_and_pictures_without_voc_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "bare.png")
    text(tmp_path / "a.xml", voc(thing("roof", 1, 2, 30, 40), "<object><name>roof</name></object>"))
    text(tmp_path / "z.xml", voc(filename="z.png"))
    found = read_folder(tmp_path)
    assert {each.path.name: each.labelled for each in found.images} == {"a.png": True, "bare.png": False}
    assert found.report == (
        "label files without their image: 1; images without a label file, taken as empty: 1; "
        "objects without a bndbox: 1"
    )


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE annotation SYSTEM "file:///etc/hostname">',
        '<!DOCTYPE annotation [<!ENTITY secret SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
    ],
)
def test_no_entity_is_expanded(tmp_path: Path, doctype: str) -> None:
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", voc(thing("roof", 1, 2, 30, 40), head='<?xml version="1.0"?>' + doctype))
    with pytest.raises(LabelsError, match="declares a document type"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "content"),
    [
        ("data.yaml", "path: .\nnames:\n  0: car\n  1: pool\n"),
        ("dataset.yml", "nc: 2\nnames: [car, pool]\n"),
        ("obj.names", "car\npool\n"),
        ("classes.txt", "car\r\npool\r\n"),
    ],
)
def test_yolo_with_any_file_of_names(tmp_path: Path, names: str, content: str) -> None:
    picture(tmp_path / "images/train/a.png")
    text(tmp_path / names, content)
    text(tmp_path / "train.txt", "data/images/train/a.png\n")
    text(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.5 0.5 0.9\n")
    found = read_folder(tmp_path)
    assert found.classes == ["car", "pool"]
    # 0.5 of 64 px is 32: the first is 16 px wide and 32 px high round the middle.
    assert boxes_of(found) == {"a.png": [("pool", [24, 16, 40, 48]), ("car", [0, 0, 32, 32])]}


def test_texts_of_windows_and_others_do_not_disturb(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    text(tmp_path / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_bytes("Bäume\r\n".encode("cp1252"))
    (tmp_path / "README.txt").write_bytes(bytes(range(128, 256)))
    text(tmp_path / "map.txt", "a plan of the site\n")
    assert boxes_of(read_folder(tmp_path)) == {"a.png": [("Bäume", [16, 16, 48, 48])]}


def test_yolo_lines_with_corners_give_their_bounds_said_once(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
        text(tmp_path / f"{name}.txt", "0 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5\n0 0.5 0.5 1 1 0.5 1\n")
    found = read_folder(tmp_path)
    assert boxes_of(found)["a.png"] == [("0", [16, 16, 48, 32]), ("0", [32, 32, 64, 64])]
    assert found.report == (
        "no file names the classes, so they are called by their numbers; "
        "lines with corners instead of a box, whose bounds are taken: 4"
    )


def test_yolo_key_points_are_no_corners(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    text(tmp_path / "data.yaml", "names: [plane]\nkpt_shape: [3, 2]\n")
    text(tmp_path / "a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.2 0.3 0.4 0.5 0.6\n")
    assert boxes_of(read_folder(tmp_path)) == {"a.png": [("plane", [16, 16, 48, 48])]}


def test_the_same_name_in_two_folders_is_two_pictures(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / f"images/{part}/1.png")
    picture(tmp_path / "images/train/2.png")
    text(tmp_path / "labels/train/1.txt", "0 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "labels/val/1.txt", "1 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "labels/val/2.txt", "0 0.5 0.5 0.5 0.5\n")
    folder = read_folder(tmp_path)
    found = {each.path.relative_to(tmp_path).as_posix(): list(each.names) for each in folder.images}
    # Whether the second picture of the first folder is a picture of nothing, or has lost its label, nobody knows.
    assert found == {"images/train/1.png": ["0"], "images/val/1.png": ["1"]}
    assert "label files without their image: 1; images of the same name" in folder.report


def test_folders_may_be_called_anything(tmp_path: Path) -> None:
    picture(tmp_path / "tif_chips/1.png")
    text(tmp_path / "boxes/1.xml", voc(thing("roof", 1, 2, 3, 4), filename="1.png"))
    assert boxes_of(read_folder(tmp_path)) == {"1.png": [("roof", [1, 2, 3, 4])]}


def test_kitti_by_columns(tmp_path: Path) -> None:
    picture(tmp_path / "training/image_2/000030_10.png")
    lines = [
        "Truck 1.0 0 -1 0 1 2 3 -1 -1 -1 -1 -1 -1 -1",
        "fire truck 0.00 0 -1.57 10.5 20 30 40.25 1 1 1 1 1 1 1 0.9",
        "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10",
    ]
    text(tmp_path / "training/label_2/000030_10.txt", "\n".join(lines))
    found = read_folder(tmp_path)
    assert boxes_of(found) == {"000030_10.png": [("Truck", [0, 1, 2, 3]), ("fire truck", [10.5, 20, 30, 40.25])]}
    assert found.classes == ["Truck", "fire truck"]
    assert found.report == "boxes called DontCare, left out: 1"


def test_coco_of_several_files_each_for_its_own_pictures(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / f"images/{part}/1.png")
        content = {
            "images": [{"id": 0, "file_name": "1.png"}],
            "annotations": [{"image_id": 0, "category_id": 0, "bbox": [1, 2, 3, 4]}],
            "categories": [{"id": 0, "name": part, "supercategory": ""}],
        }
        text(tmp_path / f"annotations/instances_{part}.json", json.dumps(content))
        content["annotations"] = [{"image_id": 0, "category_id": 0, "caption": "a port"}]
        text(tmp_path / f"annotations/captions_{part}.json", json.dumps(content))
    found = {each.path.parent.name: list(each.names) for each in read_folder(tmp_path).images}
    assert found == {"train": ["train"], "val": ["val"]}


def test_coco_outlines_stray_boxes_and_unlisted_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "images/new.png")
    content = {
        "images": [{"id": 0, "file_name": "sub\\a.jpg"}, {"id": 1, "file_name": "gone.png"}],
        "annotations": [
            {"image_id": 0, "category_id": 1, "segmentation": [[1, 2, 11, 2, 11, 8], [20, 2, 25, 2, 25, 4]]},
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"image_id": 0, "category_id": 1, "segmentation": {"counts": [1], "size": [1, 1]}},
        ],
        "categories": [{"id": 1, "name": "0"}],
    }
    text(tmp_path / "x.json", json.dumps(content))
    found = read_folder(tmp_path)
    assert boxes_of(found) == {"a.png": [("0", [1, 2, 25, 8])]}
    assert found.report == (
        "1 of 2 images listed in x.json do not exist; annotations of x.json without a box: 1; "
        "boxes of x.json without an image: 1; images beside them that are not listed, left out: 1"
    )


# ArcGIS


def esri(root: Path, suffix: str = ".tif", mode: str = "PASCAL_VOC_rectangles") -> Path:
    """A folder such as ArcGIS exports, drawn by hand: two chips, two classes, a sliver."""
    for number in (7, 8):
        picture(root / f"images/{number:09d}{suffix}", located=True)
    words = {"PASCAL_VOC_rectangles": ".xml", "KITTI_rectangles": ".txt"}.get(mode, suffix)
    if words == ".xml":
        text(
            root / "labels/000000007.xml",
            "\ufeff" + voc(thing("1", 4.00, 8.25, 64.00, 30.5), thing("2", 0, 5, 0.21, 9)),
        )
        text(root / "labels/000000008.xml", voc(thing("2", 10, 10, 20, 20)))
    elif words == ".txt":
        fill = "0.0 0 0.0 {} 0 0 0 0 0 0 0\n"
        text(
            root / "labels/000000007.txt", "1 " + fill.format("4.00 8.25 64.00 30.5") + "2 " + fill.format("0 5 0.21 9")
        )
        text(root / "labels/000000008.txt", "2 " + fill.format("10 10 20 20"))
    rows = [f"images\\{n:09d}{suffix}  labels\\{n:09d}{words} \r\n" for n in (7, 8, 9)]
    text(root / "map.txt", "".join(rows))  # the third is not there
    classes = [{"Value": 1, "Name": "Palm", "Color": [-1, -1, -1]}, {"Value": 2, "Name": "Pool", "Color": [1, 2, 3]}]
    text(
        root / "esri_model_definition.emd",
        json.dumps({"ImageHeight": "e.g. 256", "MetaDataMode": mode, "Classes": classes}),
    )
    stats = {"Version": 1, "MetaDataMode": mode, "Classes": [{"ClassValue": 1, "ClassName": "Palm"}]}
    text(root / "esri_accumulated_stats.json", json.dumps(stats))
    return root


TRUE = {
    "000000007.tif": [("Palm", [4, 8.25, 64, 30.5]), ("Pool", [0, 5, 0.21, 9])],
    "000000008.tif": [("Pool", [10, 10, 20, 20])],
}


@pytest.mark.parametrize("mode", ["PASCAL_VOC_rectangles", "KITTI_rectangles"])
def test_an_export_of_arcgis(tmp_path: Path, mode: str) -> None:
    found = read_folder(esri(tmp_path, mode=mode))
    assert boxes_of(found) == TRUE
    assert found.classes == ["Palm", "Pool"]
    assert found.report == "images listed in map.txt that do not exist: 1"


@pytest.mark.parametrize("mode", ["PASCAL_VOC_rectangles", "KITTI_rectangles"])
def test_an_export_without_any_one_of_its_files(tmp_path: Path, mode: str) -> None:
    for absent in ("map.txt", "esri_model_definition.emd", "esri_accumulated_stats.json"):
        root = esri(tmp_path / absent, mode=mode)
        (root / absent).unlink()
        found = boxes_of(read_folder(root))
        names = {"2": "Pool"} if absent == "esri_model_definition.emd" else {}
        assert {name: [(names.get(each, each), box) for each, box in boxes] for name, boxes in found.items()} == TRUE


@pytest.mark.parametrize("mode", ["PASCAL_VOC_rectangles", "KITTI_rectangles"])
def test_an_export_of_nothing_but_pictures_and_labels(tmp_path: Path, mode: str) -> None:
    root = esri(tmp_path, mode=mode)
    for absent in ("map.txt", "esri_model_definition.emd", "esri_accumulated_stats.json"):
        (root / absent).unlink()
    found = boxes_of(read_folder(root, "esri"))
    assert [name for boxes in found.values() for name, _ in boxes] == ["1", "2", "2"]
    assert [name for boxes in boxes_of(read_folder(root)).values() for name, _ in boxes] == ["1", "2", "2"]


def test_chips_without_a_label_file_and_chips_that_the_map_does_not_list(tmp_path: Path) -> None:
    root = esri(tmp_path)
    (root / "labels/000000008.xml").unlink()
    picture(root / "images/000000099.tif")
    found = read_folder(root)
    assert [(each.path.name, each.labelled) for each in found.images] == [
        ("000000007.tif", True),
        ("000000008.tif", False),
    ]
    assert found.report == (
        "images listed in map.txt that do not exist: 1; images not listed in map.txt, left out: 1; "
        "images without a label file, taken as empty: 1"
    )


@pytest.mark.parametrize("mode", ["Classified_Tiles", "RCNN_Masks"])
@pytest.mark.parametrize("told", [True, False])
def test_an_export_without_boxes_is_refused_in_one_sentence(tmp_path: Path, mode: str, told: bool) -> None:
    root = esri(tmp_path, mode=mode)
    picture(root / "labels/000000007.tif")
    if not told:
        (root / "esri_model_definition.emd").unlink()
        (root / "esri_accumulated_stats.json").unlink()
    with pytest.raises(LabelsError, match=mode if told else "something without boxes") as refused:
        read_folder(root)
    assert "PASCAL_VOC_rectangles or KITTI_rectangles" in str(refused.value)


@pytest.mark.parametrize(
    "broken", ["{", "[1]", '{"Classes": [1, null]}', '{"Classes": {"1": "Palm"}, "MinCellSize": 3}']
)
def test_metadata_that_says_nothing_is_done_without(tmp_path: Path, broken: str) -> None:
    root = esri(tmp_path)
    text(root / "esri_model_definition.emd", broken)
    text(root / "esri_accumulated_stats.json", broken)
    assert read_folder(root).classes == ["1", "2"]


@pytest.mark.parametrize("value", ["1", " 1 ", "1.0", "Palm"])
def test_classes_by_value_or_name(tmp_path: Path, value: str) -> None:
    root = esri(tmp_path)
    text(root / "labels/000000007.xml", voc(thing(value, 4, 8, 20, 30)))
    assert boxes_of(read_folder(root))["000000007.tif"] == [("Palm", [4, 8, 20, 30])]


def test_pictures_lie_where_world_files_and_the_stats_say(tmp_path: Path) -> None:
    root = esri(tmp_path, suffix=".jpg")
    for number in (7, 8):
        x = 353_000 + 32 * (number - 7)
        text(root / f"images/{number:09d}.jgw", f"0.5\n0\n0\n-0.5\n{x + 0.25}\n3056999.75\n")
    stats = {"MinCellSize": {"x": 0.5, "y": 0.5, "spatialReference": {"wkid": 32645, "latestWkid": 32645}}}
    text(root / "esri_accumulated_stats.json", json.dumps(stats))
    data = gd.prepare_data(root)
    grids = sorted((plan.grid for plan in data.plans), key=lambda grid: grid.bounds)
    assert [grid.bounds[0] for grid in grids] == [353_000, 353_032]
    assert data.pixel_size_m == pytest.approx(0.5)
    assert "boxes under 2 px: 1" in data.report
    coarse = gd.prepare_data(root, pixel_size_m=1.0)
    assert coarse.pixel_size_m == pytest.approx(1.0)
    assert {chip.pixels.shape for chip in coarse.train} == {(3, 32, 32)}


# Folders as sources of data


def _with_a_box(root: Path, box: str) -> Path:
    for name in "abc":
        picture(root / f"{name}.png")
        text(root / f"{name}.xml", voc(thing("roof", 10, 10, 30, 30), filename=f"{name}.png"))
    text(root / "a.xml", voc(thing("roof", 10, 10, 30, 30), box))
    return root


@pytest.mark.parametrize(
    ("corners", "told"),
    [
        ((70, 10, 80, 20), "boxes outside their image: 1"),
        ((-50, 10, 10, 20), "boxes outside their image: 1"),  # 10 of 60 px are inside, under 0.3
        ((20, 10, 20, 20), "boxes without an area: 1"),
        ((30, 10, 20, 20), "boxes without an area: 1"),
        (("nan", 10, 20, 20), "boxes without an area: 1"),
        ((20, 10, 21.9, 20), "boxes under 2 px: 1"),
        ((20, 10, 21.98, 20), "boxes under 2 px: 1"),
    ],
)
def test_boxes_of_no_use_are_counted(tmp_path: Path, corners: tuple[float, ...], told: str) -> None:
    data = gd.prepare_data(_with_a_box(tmp_path, thing("roof", *corners)))
    assert told in data.report
    assert sum(len(plan.boxes) for plan in data.plans) == 3


def test_a_box_that_is_mostly_inside_is_cut(tmp_path: Path) -> None:
    data = gd.prepare_data(_with_a_box(tmp_path, thing("roof", 50, 50, 74, 60)))
    assert [50, 50, 64, 60] in [box for plan in data.plans for box in plan.boxes.xyxy.tolist()]


def test_nothing_is_written_beside_the_pictures(tmp_path: Path) -> None:
    root = esri(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    data = gd.prepare_data(root, split="random")
    data.show_batch(1)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("kind", ["esri", "coco", "yolo"])
def test_classes_are_renamed_by_name_or_by_the_number_of_the_format(tmp_path: Path, kind: str) -> None:
    boxes, names = np.array([[4.0, 8, 20, 30], [30, 30, 40, 40]]), np.array(["palm", "pool"], dtype=object)
    pictures = [Image(Path(f"{name}.tif"), boxes, names, (SIDE, SIDE)) for name in "ab"]
    for each in pictures:
        picture(tmp_path / IMAGES / each.path)
    for name, content in FORMATS[kind].render(Folder(pictures, ["palm", "pool"], n_bands=3)):
        text(tmp_path / name, content)
    first = 0 if kind == "yolo" else 1  # YOLO counts from 0, what we write of the others from 1
    for old in (first, str(first), float(first), "palm"):
        assert gd.prepare_data(tmp_path, class_mapping={old: "tree"}).classes == ["tree", "pool"]
    data = gd.prepare_data(tmp_path, class_mapping={first: None, "pool": "water", "car": "van", 77: "x"})
    assert data.classes == ["water"]
    assert "boxes of classes that class_mapping drops: 2" in data.report
    assert "no class is called car, 77, which class_mapping renames" in data.report
    # A name counts for more than another class' number.
    assert gd.prepare_data(tmp_path, class_mapping={first: "x", "palm": "y"}).classes == ["y", "pool"]


def test_a_class_has_to_have_a_name(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
        text(tmp_path / f"{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "data.yaml", "names: ['']\n")
    with pytest.raises(LabelsError, match="a class of the folder has an empty name; give it one with class_mapping"):
        gd.prepare_data(tmp_path)
    assert gd.prepare_data(tmp_path, class_mapping={0: "roof"}).classes == ["roof"]


def test_pictures_without_an_object_count_as_negatives_and_large_ones_are_cut(tmp_path: Path) -> None:
    for name in "abcdef":
        picture(tmp_path / f"{name}.png")
    picture(tmp_path / "large.png", side=3 * SIDE)
    for name in "ab":
        text(tmp_path / f"{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    # Four small pictures and nine windows of the large one hold nothing.
    for negatives, n_bare in ((0, 0), (1, 2), (2.5, 5), (100, 13)):
        data = gd.prepare_data(tmp_path, negatives=negatives, chip_size=SIDE, split="random")
        assert len(data.plans) == 2 + n_bare
        left_out = f"chips without an object beyond negatives={negatives}, left out: {13 - n_bare}"
        assert (left_out in data.report) == (n_bare < 13)


def test_numbers_rename_classes_too(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
        text(tmp_path / f"{name}.txt", "3 0.5 0.5 0.5 0.5\n")
    assert gd.prepare_data(tmp_path, class_mapping={3: "palm"}).classes == ["palm"]


def test_pictures_of_two_kinds_are_refused_and_bare_ones_left_out(tmp_path: Path) -> None:
    root = _with_a_box(tmp_path, "")
    write_raster(root / "d.tif", np.zeros((4, SIDE, SIDE), np.uint16))
    data = gd.prepare_data(root)
    assert "images without labels that have other bands than those with, left out: 1" in data.report
    text(root / "d.xml", voc(thing("roof", 1, 1, 9, 9), filename="d.tif"))
    with pytest.raises(GeodetectError, match=r"3 of uint8 in .*\.png, 4 of uint16 in d\.tif"):
        gd.prepare_data(root)


def _yolo(line: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        picture(root / "a.png")
        text(root / "b.txt", "0 0.5 0.5 0.5 0.5\n")
        text(root / "a.txt", line)

    return write


def _voc(content: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        picture(root / "a.png")
        text(root / "a.xml", content)

    return write


@pytest.mark.parametrize(
    ("write", "dataset_type", "told"),
    [
        (_yolo("0 0.5 0.5 0.5 0.5\n1 0.5 0.5\n"), None, "line 2 of .*a.txt is not YOLO"),
        (_yolo("0 120 80 30 30\n"), None, "line 1 of .*a.txt is not YOLO: .*shares of the image"),
        (_yolo("0 0.5 0.5 0.5 0.5\n"), "kitti", "line 1 of .*a.txt is not KITTI"),
        (
            _yolo("0 0.5 0.5 0.5 0.5\n"),
            "csv",
            "one of coco, deepforest, dota, esri, kitti, voc, yolo, yolo_obb",
        ),
        (_voc("<annotation><object>"), None, "a.xml cannot be read as XML"),
        (_voc(voc(thing("roof", 1, 2, 3, "four"))), None, "a bndbox in .*a.xml is not made of the numbers"),
        (_voc(voc(thing("roof", 90, 90, 99, 99))), None, r"no image of .* \(boxes outside their image: 1\)"),
        (_voc("<annotations/>"), None, "no labels of a known format .*it holds 1 images, 1 .xml files"),
        (_voc("<annotations/>"), "coco", "holds no COCO labels"),
        (_voc("<annotations/>"), "esri", "something without boxes"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(
    tmp_path: Path, write: Callable[[Path], None], dataset_type: str | None, told: str
) -> None:
    write(tmp_path)
    with pytest.raises((LabelsError, ArgumentError), match=told):
        gd.prepare_data(tmp_path, dataset_type=dataset_type)
