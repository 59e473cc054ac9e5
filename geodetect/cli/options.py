"""Options that several commands share, and types that parse their values.

Every option has the name and the default of a keyword of the Python API. Where defaults differ between commands, the
command gives its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

Command = Callable[..., Any]
Option = Callable[[Command], Command]


class Text(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A type of option whose value is parsed from text, or is one of a few words.

    Args:
        name: name of the value in the help.
        parse: from text to value; raises ValueError.
        expected: description of valid text, for messages.
        words: values of special words.
    """

    def __init__(
        self, name: str, parse: Callable[[str], Any], expected: str, words: Mapping[str, Any] | None = None
    ) -> None:
        self.name, self._parse, self._expected, self._words = name, parse, expected, dict(words or {})

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; a default that is not text is returned unchanged."""
        if not isinstance(value, str):
            return value
        if value in self._words:
            return self._words[value]
        try:
            return self._parse(value)
        except ValueError:
            self.fail(f"expected {self._expected}; got {value!r}", param, ctx)


def parse_numbers(kind: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    """Return a parser of lists such as `1,2,3`."""
    return lambda text: tuple(kind(part) for part in text.split(","))


def _parse_scores(text: str) -> float | dict[str, float]:
    """Return a number, or numbers by class of `pool=0.4,car=0.3`."""
    if "=" not in text:
        return float(text)
    pairs = (part.rpartition("=") for part in text.split(","))
    return {name.strip(): float(score) for name, _, score in pairs}


def _parse_bands(text: str) -> tuple[int | str, ...]:
    """Return band numbers, or names of parts that are not numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(text)
    return tuple(int(part) if part.removeprefix("-").isdigit() else part for part in parts)


def _parse_area(text: str) -> str | tuple[float, ...]:
    """Return numbers if the text is a list of them, else the text: the name of a file."""
    try:
        corners = tuple(float(part) for part in text.split(","))
    except ValueError:
        return text
    return corners if len(corners) > 1 else text


def _parse_mapping(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str | None] | None:
    """Return a class mapping of `old=new` and `old=`; None for an option that was not given."""
    split = [pair.partition("=") for pair in pairs]
    for pair, (old, equals, _) in zip(pairs, split, strict=True):
        if not (old and equals):
            raise click.BadParameter(f"expected OLD=NEW, or OLD= to drop it; got {pair!r}", ctx, param)
    return {old: new or None for old, _, new in split} or None


AREA = Text("file or corners", _parse_area, "a vector file, or x1,y1,x2,y2")
BANDS = Text("bands", _parse_bands, "bands with commas between, by number from 1 or by name, such as 1,2,3 or red,nir")
SCORES = Text("scores", _parse_scores, "a number, or one for each class, such as pool=0.4,car=0.3")
CHECKPOINT = Text("folder or word", str, "a folder, yes or no", {"yes": True, "no": False})
PATH_OR_NONE = Text("path or word", str, "a path", {"none": None})
NORM = Text("word", str, "batch, group or none", {"none": False})
LEVELS = Text("numbers", parse_numbers(int), "first and last level with a comma between, such as 2,7")
RATIOS = Text("numbers", parse_numbers(float), "numbers with commas between, such as 0.5,1,2")
SCALES = Text(
    "numbers", parse_numbers(float), "numbers with commas between, such as 1,1.26,1.59, or auto", {"auto": "auto"}
)
METRES = Text("metres", float, "a number of metres, model, or none", {"model": "model", "none": None})


def chip_size(default: int | None, otherwise: str | bool = True) -> Option:
    """Return the option for the side of a chip or window; `otherwise` describes the default None."""
    return click.option(
        "--chip-size", type=int, default=default, show_default=otherwise, help="Side of a chip, in pixels."
    )


def overlap(default: int | None, otherwise: str | bool = True) -> Option:
    """Return the option for the overlap of neighbouring chips; `otherwise` describes the default None."""
    return click.option(
        "--overlap", type=int, default=default, show_default=otherwise, help="Overlap of neighbouring chips, in pixels."
    )


pixel_size_m = click.option(
    "--pixel-size-m",
    type=float,
    show_default="the raster's own",
    help="Read at this ground resolution, in metres per pixel.",
)


def bands(otherwise: str) -> Option:
    """Return the option for the bands to read; `otherwise` describes the default None."""
    return click.option(
        "--bands",
        type=BANDS,
        show_default=otherwise,
        help="Bands to read, by number from 1 or by name, such as 1,2,3 or red,nir; may repeat a band.",
    )


nodata = click.option(
    "--nodata",
    type=float,
    show_default="as the raster declares",
    help="Value of no-data pixels, in addition to those that the raster declares.",
)
label_field = click.option(
    "--label-field",
    show_default="label, else one class named after the file",
    help="Column of the labels with the class.",
)
layer = click.option(
    "--layer",
    metavar="NAME",
    show_default="the first with features",
    help="Layer of the label file, by name or by number from 0; for other files, write FILE|layername=NAME.",
)
point_radius_m = click.option(
    "--point-radius-m", type=float, help="Radius of the circles that replace points, in metres on the ground."
)
aoi = click.option(
    "--aoi",
    type=AREA,
    metavar="FILE",
    show_default="everywhere",
    help="Area of interest: a vector file in any CRS, or x1,y1,x2,y2 in map coordinates.",
)
match_iou = click.option(
    "--match-iou",
    type=float,
    default=0.5,
    help="Minimum IoU for a detection to match a label, above 0, at most 1.",
)
shape = click.option(
    "--shape",
    type=click.Choice(["box", "polygon"]),
    show_default="polygon for oriented detections, else box",
    help="Compare bounding boxes (box) or the polygons themselves.",
)
min_visible = click.option(
    "--min-visible",
    type=float,
    default=0.3,
    help="Minimum share of a label's area that must lie in a chip for the label to count, 0 to 1.",
)


boxes = click.option(
    "--boxes",
    type=click.Choice(["upright", "oriented"]),
    default="upright",
    help="Upright boxes, or oriented ones: the smallest rotated rectangle around each label.",
)


def negatives(default: float) -> Option:
    """Return the option for how many chips without objects are kept."""
    return click.option(
        "--negatives",
        type=float,
        default=default,
        help="Chips without objects to keep, as a share of the chips with objects, 0 or more.",
    )


class_mapping = click.option(
    "--class-mapping",
    metavar="OLD=NEW",
    multiple=True,
    callback=_parse_mapping,
    help="Rename a class, or drop it with OLD=; may be given several times.",
)
seed = click.option("--seed", type=int, default=42, help="Random seed (a whole number).")
device = click.option(
    "--device", show_default="a GPU if available", help="Device to compute on: cpu, cuda, cuda:1, mps."
)
progress = click.option("--progress/--no-progress", default=True, help="Show a progress bar.")
