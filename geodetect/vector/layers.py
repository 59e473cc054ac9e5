"""Which layer of a vector file is read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyogrio

from geodetect.addresses import expand_user
from geodetect.errors import ArgumentError, LabelsError, is_whole, warn
from geodetect.vector.literal import literal_source
from geodetect.vector.outputs import SEARCHED

_OPTION = re.compile(r"\|(?=\w+=)")
_TOLD = 10  # layers that a message names


@dataclass(frozen=True)
class VectorFile:
    """A vector file and the part of it to read.

    Args:
        path: of the file, or a URL.
        layer: name, or number from 0; None where none was chosen.
        where: SQL condition that the features must meet; None for all of them.
    """

    path: str
    layer: str | int | None = None
    where: str | None = None


def vector_file(source: str | Path, layer: str | int | None = None) -> VectorFile:
    """Parse a path, or a path with a layer as QGIS writes it: `file.gpkg|layername=roofs|subset="floors" > 1`.

    Args:
        source: a path or URL; `|layername=`, `|layerid=` and `|subset=` are understood.
        layer: name or number (from 0) of the layer, where `source` does not give it.

    Raises:
        LabelsError: if an option is not understood.
        ArgumentError: if `layer` is neither a name nor a number, or contradicts `source`.
    """
    if layer is not None and not (isinstance(layer, str) or (is_whole(layer) and layer >= 0)):
        raise ArgumentError(f"layer must be the name of a layer, or its number from 0; got {layer!r}")
    text = expand_user(source)
    path, *options = [text] if os.path.exists(text) else _OPTION.split(text)
    given = {name.lower(): value for name, _, value in (option.partition("=") for option in options)}
    given.pop("uniquegeometrytype", None)  # QGIS' note to itself
    file = VectorFile(path, given.pop("layername", None), given.pop("subset", None))
    number = given.pop("layerid", None)
    if given or (number is not None and not number.isdigit()):
        raise LabelsError(
            f"of {source} only |layername=NAME, |layerid=NUMBER and |subset=CONDITION are understood after the path; "
            "leave the rest out"
        )
    if number is not None and file.layer is None:
        file = replace(file, layer=int(number))
    if layer is not None and file.layer not in (None, layer):
        raise ArgumentError(f"layer={layer!r} contradicts {source}; choose the layer in one of the two")
    return file if layer is None else replace(file, layer=layer)


def layer_number(file: VectorFile, name: str) -> tuple[int, str]:
    """Find the layer to read: the one chosen, else the first that holds features, with a warning if there are more.

    Args:
        file: the file, which GDAL can open.
        name: what messages call it.

    Returns:
        number of the layer from 0, and a note of the others; empty where there are none.

    Raises:
        LabelsError: if the layer that was chosen does not exist, or has no geometry.
        ValueError: if there are no layers.
    """
    path = literal_source(file.path)
    layers = pyogrio.list_layers(path).tolist()
    if not layers:
        raise ValueError("it holds no layers")
    names = [str(layer) for layer, _ in layers]
    spatial = [number for number, (_, kind) in enumerate(layers) if kind is not None]
    if file.layer is not None:
        return _chosen(file.layer, names, spatial, name), ""
    # The ground that was searched lies beside what was found there. CSV is said to be without geometry until it is
    # opened with the options that find it.
    usable = [number for number in spatial if names[number] != SEARCHED] or spatial or [0]
    if len(usable) > 1:  # GPX, for one, always has five layers, most of them empty
        usable = [number for number in usable if _holds_features(path, number)] or usable[:1]
    first, *others = usable
    if not others:
        return first, ""
    told = _listed([names[number] for number in usable])
    warn(
        f"{name} has several layers: {told}; {names[first]} is read, choose one by its name as in "
        f"{name}|layername={names[others[0]]}"
    )
    return first, f"read layer {names[first]} of {told}"


def _chosen(layer: str | int, names: Sequence[str], spatial: Sequence[int], name: str) -> int:
    """The number of a layer that was asked for by name or number; a name that is a number counts as a name first."""
    number = names.index(str(layer)) if isinstance(layer, str) and layer in names else None
    if number is None and str(layer).isdigit():
        if int(layer) < len(names):
            number = int(layer)
        elif str(layer) in names:  # layers may be called 2019 and 2024
            number = names.index(str(layer))
    if number is None:
        raise LabelsError(f"{name} has no layer {layer!r}; it has {_listed(names)}")
    if spatial and number not in spatial:
        raise LabelsError(
            f"layer {names[number]!r} of {name} has no geometry; choose one that has: "
            f"{_listed([names[each] for each in spatial])}"
        )
    return number


def _holds_features(path: str, number: int) -> bool:
    """Whether there is a feature in a layer, or may be; drivers may take long to count all of them."""
    try:
        _, ids, _, _ = pyogrio.raw.read(path, layer=number, max_features=1, read_geometry=False, return_fids=True)
    except RuntimeError:  # of a layer that cannot be read nobody knows
        return True
    return len(ids) > 0


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more
