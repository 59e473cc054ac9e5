"""Pascal VOC: an XML for each picture; boxes by xmin, ymin, xmax and ymax, read as they stand.

The layout is described at http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html.
There the first pixel is (1, 1) and boxes end on their last pixel; nearly everything that writes
the format since counts edges from 0, and nothing in a file tells which.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.picture import Folder, Picture, counted, sentence
from geodetect.errors import LabelsError

LABELS = "Annotations"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def recognises(listing: Listing) -> bool:
    """Whether some XML of the folder is an annotation of a picture with boxes."""
    return any(_looks_right(path) for path in listing.sample(".xml"))


def _looks_right(path: Path) -> bool:
    content = path.read_bytes()
    # LabelMe's are called annotations too, and hold outlines alone; CVAT's hold all pictures in one.
    boxed = b"<bndbox" in content or b"<polygon" not in content
    return boxed and b"<annotation" in content and b"<annotations" not in content


def read(listing: Listing) -> Folder:
    """The pictures that the folder's annotations name, and as empty ones those beside them without one.

    Raises:
        LabelsError: if an annotation cannot be read.
    """
    paths = [path for path in listing.ending(".xml") if _looks_right(path)]
    lost: Counter[str] = Counter()
    roots = [parse(path) for path in paths]
    names = [_named(root, path, listing) for root, path in zip(roots, paths, strict=True)]
    found = listing.match(list(zip(names, paths, strict=True)))
    pictures = [
        picture(root, path, file, lost)
        for root, path, file in zip(roots, paths, found, strict=True)
        if file is not None
    ]
    bare = listing.unlabelled(each.path for each in pictures)
    report = sentence(
        counted(found.count(None), "annotations whose picture is not there"),
        counted(len(bare), "pictures without an annotation, taken as empty"),
        *(counted(n, what) for what, n in lost.items()),
    )
    classes = sorted({name for each in pictures for name in each.names})
    return Folder(pictures + bare, classes, report)


def _named(root: ElementTree.Element, path: Path, listing: Listing) -> str:
    """The picture that an annotation names; the one called like itself where that is not there."""
    name = (root.findtext("filename") or "").strip()
    return name if name and listing.has_picture(name) else path.stem


def parse(path: Path) -> ElementTree.Element:
    """The root of an XML file, which may begin with a byte-order mark or blanks.

    Raises:
        LabelsError: if it is not well-formed, or declares a document type: entities are not expanded.
    """
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8).lstrip()
        parser.feed(content)
        root: ElementTree.Element = parser.close()
    except (OSError, ElementTree.ParseError, LookupError) as error:
        raise LabelsError(f"{path} cannot be read as XML: {error}") from error
    except _Doctype as error:
        raise LabelsError(
            f"{path} declares a document type, which labels do not need and which can name other files; "
            "remove its DOCTYPE"
        ) from error
    return root


class _Doctype(ValueError):
    """A file declares a document type."""


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds a tree of what has no document type: without one there are no entities to expand."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Stop where one is declared."""
        raise _Doctype(name)


def picture(root: ElementTree.Element, label: Path, path: Path, lost: Counter[str]) -> Picture:
    """What an annotation says of the picture `path`; `lost` counts objects without a box.

    Raises:
        LabelsError: if a box is not four numbers.
    """
    names: list[str] = []
    boxes: list[list[float]] = []
    for thing in root.findall("object"):
        box = thing.find("bndbox")
        if box is None:
            lost["objects without a bndbox"] += 1
            continue
        try:
            boxes.append([float(box.findtext(side) or "") for side in _SIDES])
        except ValueError as error:
            raise LabelsError(f"a bndbox in {label} is not made of the numbers {', '.join(_SIDES)}: {error}") from error
        names.append((thing.findtext("name") or "").strip() or "object")
    return Picture(path, np.array(boxes, float).reshape(-1, 4), np.array(names, dtype=object), _shape(root))


def _shape(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) where the annotation gives them; 0 means that nobody knew."""
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    return (int(sides[0]), int(sides[1])) if all(side.isdigit() and int(side) for side in sides) else None


def can_name(name: str) -> bool:
    """All but names with what XML cannot hold (https://www.w3.org/TR/xml/#charsets), or does not keep: line breaks."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") or letter in "\ufffe\uffff" for letter in name)


def files(folder: Folder) -> Iterator[tuple[str, str]]:
    """An annotation for each picture, its corners in hundredths of a pixel."""
    for each in folder.pictures:
        yield f"{LABELS}/{each.path.stem}.xml", annotation(each, each.names, folder.n_bands or 3)


def annotation(picture: Picture, names: np.ndarray, depth: int) -> str:
    """The XML of one picture.

    Args:
        picture: its boxes in pixels, and its shape.
        names: (N,) what each box is called.
        depth: number of bands.
    """
    height, width = picture.shape or (0, 0)
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = picture.path.name
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", depth)):
        ElementTree.SubElement(size, tag).text = str(value)
    for corners, name in zip(picture.xyxy.tolist(), names, strict=True):
        thing = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(thing, "name").text = str(name)
        box = ElementTree.SubElement(thing, "bndbox")
        for side, value in zip(_SIDES, corners, strict=True):
            ElementTree.SubElement(box, side).text = f"{value:.2f}"
    ElementTree.indent(root)
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
