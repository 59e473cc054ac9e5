"""Options that several commands share, and how text becomes the values that Python takes.

Every option has the word and the default of the keyword it stands for. Where defaults
differ between commands, the command gives its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

Command = Callable[..., Any]
Option = Callable[[Command], Command]


class Text(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A value made of text, or one of a few words that stand for something else.

    Args:
        name: what help calls the value.
        parse: from text to value; raises ValueError.
        expected: what messages say was expected.
        words: the words, and what they stand for.
    """

    def __init__(
        self, name: str, parse: Callable[[str], Any], expected: str, words: Mapping[str, Any] | None = None
    ) -> None:
        self.name, self._parse, self._expected, self._words = name, parse, expected, dict(words or {})

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; a default that is none of text passes as it is."""
        if not isinstance(value, str):
            return value
        if value in self._words:
            return self._words[value]
        try:
            return self._parse(value)
        except ValueError:
            self.fail(f"expected {self._expected}; got {value!r}", param, ctx)


def numbers(kind: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    """What makes a tuple of `1,2,3`."""
    return lambda text: tuple(kind(part) for part in text.split(","))


def _scores(text: str) -> float | dict[str, float]:
    """A number, or numbers by class from `pool=0.4,car=0.3`."""
    if "=" not in text:
        return float(text)
    pairs = (part.rpartition("=") for part in text.split(","))
    return {name.strip(): float(score) for name, _, score in pairs}


def _bands(text: str) -> tuple[int | str, ...]:
    """Numbers, or names where a part is no number."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(text)
    return tuple(int(part) if part.removeprefix("-").isdigit() else part for part in parts)


def _area(text: str) -> str | tuple[float, ...]:
    """Four numbers where the text is that, else the name of a file."""
    try:
        corners = tuple(float(part) for part in text.split(","))
    except ValueError:
        return text
    return corners if len(corners) > 1 else text


def _renamed(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str | None] | None:
    """A class mapping from `old=new` and `old=`; None where the option was not used."""
    split = [pair.partition("=") for pair in pairs]
    for pair, (old, equals, _) in zip(pairs, split, strict=True):
        if not (old and equals):
            raise click.BadParameter(f"expected OLD=NEW, or OLD= to drop it; got {pair!r}", ctx, param)
    return {old: new or None for old, _, new in split} or None


AREA = Text("file or corners", _area, "a vector file, or x1,y1,x2,y2")
BANDS = Text("bands", _bands, "bands with commas between, by number from 1 or by name, such as 1,2,3 or red,nir")
SCORES = Text("scores", _scores, "a number, or one for each class, such as pool=0.4,car=0.3")
CHECKPOINT = Text("folder or word", str, "a folder, yes or no", {"yes": True, "no": False})
PATH_OR_NONE = Text("path or word", str, "a path", {"none": None})
NORM = Text("word", str, "batch, group or none", {"none": False})
LEVELS = Text("numbers", numbers(int), "first and last level with a comma between, such as 2,7")
RATIOS = Text("numbers", numbers(float), "numbers with commas between, such as 0.5,1,2")
SCALES = Text("numbers", numbers(float), "numbers with commas between, such as 1,1.26,1.59, or auto", {"auto": "auto"})
METRES = Text("metres", float, "a number of metres, model, or none", {"model": "model", "none": None})


def chip_size(default: int | None, otherwise: str | bool = True) -> Option:
    """The side of a chip or window; `otherwise` says what None stands for."""
    return click.option(
        "--chip-size", type=int, default=default, show_default=otherwise, help="Side of a chip, in pixels."
    )


def overlap(default: int | None, otherwise: str | bool = True) -> Option:
    """How much neighbours share; `otherwise` says what None stands for."""
    return click.option(
        "--overlap", type=int, default=default, show_default=otherwise, help="What neighbouring chips share, in pixels."
    )


pixel_size_m = click.option(
    "--pixel-size-m",
    type=float,
    show_default="the raster's own",
    help="Read at this ground resolution, in metres a pixel.",
)


def bands(otherwise: str) -> Option:
    """The bands to read; `otherwise` says what None stands for."""
    return click.option(
        "--bands",
        type=BANDS,
        show_default=otherwise,
        help="Bands to read, numbered from 1 or by name, such as 1,2,3 or red,nir; a band may come twice.",
    )


nodata = click.option(
    "--nodata",
    type=float,
    show_default="what the raster declares",
    help="Value of pixels that stands for no data, besides those that the raster declares.",
)
label_field = click.option(
    "--label-field",
    show_default="label, else one class named after the file",
    help="Column of the labels that holds the class.",
)
layer = click.option(
    "--layer",
    metavar="NAME",
    show_default="the first that holds features",
    help="Layer of the labels' file, by name or number from 0; for other files write FILE|layername=NAME.",
)
point_radius_m = click.option(
    "--point-radius-m", type=float, help="Makes points into circles of this radius, in metres on the ground."
)
aoi = click.option(
    "--aoi",
    type=AREA,
    metavar="FILE",
    show_default="everywhere",
    help="Only ground inside counts: a vector file in any CRS, or x1,y1,x2,y2 in map coordinates.",
)
match_iou = click.option(
    "--match-iou",
    type=float,
    default=0.5,
    help="Overlap (IoU) from which a detection counts as right, above 0, at most 1.",
)
shape = click.option(
    "--shape",
    type=click.Choice(["box", "polygon"]),
    default="box",
    help="Compare envelopes or the polygons themselves.",
)
min_visible = click.option(
    "--min-visible",
    type=float,
    default=0.3,
    help="Smallest share of a label's area in a chip that is still a label there, 0 to 1.",
)


def negatives(default: float) -> Option:
    """How many chips without an object are kept."""
    return click.option(
        "--negatives",
        type=float,
        default=default,
        help="Chips without an object, as a share of the chips with one, 0 or more.",
    )


class_mapping = click.option(
    "--class-mapping",
    metavar="OLD=NEW",
    multiple=True,
    callback=_renamed,
    help="Renames a class, or drops it with OLD=; may be given more than once.",
)
seed = click.option("--seed", type=int, default=42, help="Start of everything random (a whole number).")
device = click.option(
    "--device", show_default="a GPU where there is one", help="Where to compute: cpu, cuda, cuda:1, mps."
)
progress = click.option("--progress/--no-progress", default=True, help="Show a progress bar.")
