"""Pascal VOC: an XML for each image; boxes by xmin, ymin, xmax and ymax, read as they stand.

The layout is described at http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html.
There the first pixel is (1, 1) and boxes include their last pixel. Nearly all programs since then count edges
from 0, and nothing in a file tells which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from geodetect.chips.formats.image import Box, Folder, Image, count, join_notes
from geodetect.chips.formats.listing import Listing, Reference
from geodetect.chips.formats.names import key
from geodetect.chips.formats.text import parse_number, read_bytes
from geodetect.errors import LabelsError

LABELS = "Annotations"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_LARGEST = 10_000_000  # px; a longer side is a mistake
_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}  # what programs declare, and what contains all that they write


def recognises(listing: Listing) -> bool:
    """Return whether some XML of the folder is an annotation of an image with boxes."""
    return any(_is_annotation(path) for path in listing.sample(".xml"))


def _is_annotation(path: Path) -> bool:
    content = read_bytes(path).lower()
    # LabelMe's are called annotations too, and only hold outlines; CVAT's hold all images in one.
    boxed = b"<bndbox" in content or b"<polygon" not in content
    return boxed and b"<annotation" in content and b"<annotations" not in content


def read(listing: Listing) -> Folder:
    """Read the images that the folder's annotations name, and those beside them as empty ones.

    Raises:
        LabelsError: if an annotation cannot be read.
    """
    lost: Counter[str] = Counter()
    roots = {path: parse(path) for path in listing.with_suffix(".xml") if _is_annotation(path)}
    wanted = []
    for path, root in roots.items():
        named, own = Reference((root.findtext("filename") or "").strip(), path), Reference(path.stem, path)
        same = key(named.name) == key(path.stem)
        exists = bool(named.name and listing.find(named.name))
        # If another image has the annotation's own name, the one inside is from before files were renamed or copied.
        stale = exists and not same and listing.is_near(own)
        lost["annotations that name another image than the one called like them, which counts"] += stale
        wanted.append(named if same or (exists and not stale) else own)
    found = listing.match(wanted)
    images = [read_image(path, label, roots[label], lost) for path, label in found.labels.items()]
    report = join_notes(found.report, *(count(n, what) for what, n in lost.items()))
    return Folder.of(images + found.bare, report)


def parse(path: Path) -> ElementTree.Element:
    """Return the root of an XML file, its tags in lower case and without namespaces.

    It may be in any encoding that it declares, and begin with a byte-order mark or blanks.

    Raises:
        LabelsError: if it is not well-formed, or declares a document type: entities are not expanded.
    """
    content = read_bytes(path).lstrip()
    declared = _DECLARED.match(content)
    encoding = declared[1].decode().lower() if declared else "utf-8"
    if encoding.startswith(("utf-16", "utf-32", "ucs")):  # it has a byte-order mark, and is decoded already
        encoding = "utf-8"
    parser = ElementTree.XMLParser(target=_PlainTree())
    try:
        # The parser itself knows no multi-byte encodings but UTF-8 and UTF-16.
        parser.feed(content.decode(_WIDER.get(encoding, encoding)))
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


class _Doctype(ValueError):
    """A file declares a document type."""


class _PlainTree(ElementTree.TreeBuilder):
    """Builder of a tree whose tags are bare words; it refuses document types, and with them entities."""

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        """Open an element; `{http://...}Object` is an object too."""
        return super().start(_bare(tag), attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        """Close it."""
        return super().end(_bare(tag))

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Stop at a declaration."""
        raise _Doctype(name)


def _bare(tag: str) -> str:
    return tag.rpartition("}")[2].lower()


def read_image(path: Path, label: Path, root: ElementTree.Element, lost: Counter[str]) -> Image:
    """Read the boxes of an annotation, and the size of its image unless it is 0 or missing.

    Args:
        path: the image.
        label: the annotation.
        root: its content, as `parse` returns it.
        lost: counts the objects without a box.

    Raises:
        LabelsError: if a box is not four numbers.
    """
    boxes: list[Box] = []
    for thing in root.iter("object"):  # some tools put them into a list
        bndbox = thing.find("bndbox")
        if bndbox is None:
            lost["objects without a bndbox"] += 1
            continue
        try:
            xyxy = [parse_number(bndbox.findtext(side) or "") for side in _SIDES]
        except ValueError as error:
            raise LabelsError(f"a bndbox in {label} is not made of the numbers {', '.join(_SIDES)}: {error}") from error
        boxes.append(Box((thing.findtext("name") or "").strip() or "object", xyxy))
    try:
        height, width = (parse_number(root.findtext(f"size/{side}") or "") for side in ("height", "width"))
    except ValueError:
        height = width = 0
    known = min(height, width) >= 1 and max(height, width) <= _LARGEST
    return Image.of(path, boxes, label, shape=(int(height), int(width)) if known else None)


def render(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield an annotation for each image, its corners in hundredths of a pixel."""
    for each in folder.images:
        yield f"{LABELS}/{each.path.stem}.xml", render_image(each, each.names, folder.n_bands or 3)


def render_image(image: Image, names: np.ndarray, depth: int) -> str:
    """Return the XML of one image.

    Args:
        image: its boxes in pixels, and its shape.
        names: (N,) what each box is called.
        depth: number of bands.
    """
    height, width = image.shape or (0, 0)
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = image.path.name
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", depth)):
        ElementTree.SubElement(size, tag).text = str(value)
    for corners, name in zip(image.xyxy.tolist(), names, strict=True):
        thing = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(thing, "name").text = str(name)
        box = ElementTree.SubElement(thing, "bndbox")
        for side, value in zip(_SIDES, corners, strict=True):
            ElementTree.SubElement(box, side).text = f"{value:.2f}"
    ElementTree.indent(root)
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
