"""Pascal VOC: an XML for each picture; boxes by xmin, ymin, xmax and ymax, read as they stand.

The layout is described at http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html.
There the first pixel is (1, 1) and boxes end on their last pixel; nearly everything that writes
the format since counts edges from 0, and nothing in a file tells which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import key
from geodetect.chips.formats.picture import Folder, Picture, counted, sentence
from geodetect.chips.formats.text import content_of, number
from geodetect.errors import LabelsError

LABELS = "Annotations"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_LARGEST = 10_000_000  # px; a side of more is a slip
_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}  # what programs call so, and what holds all that they write


def recognises(listing: Listing) -> bool:
    """Whether some XML of the folder is an annotation of a picture with boxes."""
    return any(_looks_right(path) for path in listing.sample(".xml"))


def _looks_right(path: Path) -> bool:
    content = content_of(path).lower()
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
    wanted = [(_named(root, path, listing, lost), path) for root, path in zip(roots, paths, strict=True)]
    found = listing.matched(wanted, "annotations", "an annotation")
    pictures = [
        picture(root, path, file, lost)
        for root, path, file in zip(roots, paths, found.files, strict=True)
        if file is not None
    ]
    report = sentence(found.report, *(counted(n, what) for what, n in lost.items()))
    classes = sorted({name for each in pictures for name in each.names})
    return Folder(pictures + found.bare, classes, report)


def _named(root: ElementTree.Element, path: Path, listing: Listing, lost: Counter[str]) -> str:
    """The picture that an annotation is of: the one called like itself, or else the one that it names.

    The name in it is left over from before files were renamed or copied, where the two differ.
    """
    name = (root.findtext("filename") or "").strip()
    if not (name and listing.called(name)) or key(name) == key(path.stem):
        return name if key(name) == key(path.stem) else path.stem
    if listing.near(path.stem, path):
        lost["annotations that name another picture than the one called like them, which counts"] += 1
        return path.stem
    return name


def parse(path: Path) -> ElementTree.Element:
    """The root of an XML file, its tags in small letters and without namespaces.

    It may be in any encoding that it declares, and begin with a byte-order mark or blanks.

    Raises:
        LabelsError: if it is not well-formed, or declares a document type: entities are not expanded.
    """
    parser = ElementTree.XMLParser(target=_PlainTree())
    try:
        parser.feed(_decoded(content_of(path).lstrip()))
        root: ElementTree.Element = parser.close()
    except (LookupError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path} cannot be read as XML: {error}; its declaration must name its encoding") from error
    except ElementTree.ParseError as error:
        raise LabelsError(f"{path} cannot be read as XML: {error}") from error
    except _Doctype as error:
        raise LabelsError(
            f"{path} declares a document type, which labels do not need and which can name other files; "
            "remove its DOCTYPE"
        ) from error
    return root


def _decoded(content: bytes) -> str:
    """The text of an XML file; the parser itself knows no encoding of several bytes a character but UTF-8 and UTF-16.

    Raises:
        LookupError: if nobody knows the encoding.
        UnicodeDecodeError: if it is another than the one that is declared.
    """
    declared = _DECLARED.match(content)
    encoding = declared[1].decode().lower() if declared else "utf-8"
    if encoding.startswith(("utf-16", "utf-32", "ucs")):  # which the mark has told, and `content` is no longer in
        encoding = "utf-8"
    return content.decode(_WIDER.get(encoding, encoding))


class _Doctype(ValueError):
    """A file declares a document type."""


class _PlainTree(ElementTree.TreeBuilder):
    """Builds a tree whose tags are bare words, of what has no document type and so no entities to expand."""

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        """Open an element; `{http://...}Object` is an object too."""
        return super().start(_word(tag), attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        """Close it."""
        return super().end(_word(tag))

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Stop where one is declared."""
        raise _Doctype(name)


def _word(tag: str) -> str:
    return tag.rpartition("}")[2].lower()


def picture(root: ElementTree.Element, label: Path, path: Path, lost: Counter[str]) -> Picture:
    """What an annotation says of the picture `path`; `lost` counts objects without a box.

    Raises:
        LabelsError: if a box is not four numbers.
    """
    names: list[str] = []
    boxes: list[list[float]] = []
    for thing in root.iter("object"):  # some tools put them into a list
        box = thing.find("bndbox")
        if box is None:
            lost["objects without a bndbox"] += 1
            continue
        try:
            boxes.append([number(box.findtext(side) or "") for side in _SIDES])
        except ValueError as error:
            raise LabelsError(f"a bndbox in {label} is not made of the numbers {', '.join(_SIDES)}: {error}") from error
        names.append((thing.findtext("name") or "").strip() or "object")
    xyxy = np.array(boxes, float).reshape(-1, 4)
    return Picture(path, xyxy, np.array(names, dtype=object), _shape(root), label=label)


def _shape(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) where the annotation gives them; 0 means that nobody knew."""
    try:
        height, width = (number(root.findtext(f"size/{side}") or "") for side in ("height", "width"))
    except ValueError:
        return None
    return (int(height), int(width)) if 1 <= min(height, width) and max(height, width) <= _LARGEST else None


def can_name(name: str) -> bool:
    """XML holds every name that is one line."""
    return True


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
