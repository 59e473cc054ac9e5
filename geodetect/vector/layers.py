"""Choice of the layer of a vector file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyogrio

from geodetect.addresses import expand_user, name_of
from geodetect.errors import ArgumentError, LabelsError, is_whole, warn
from geodetect.facts import join_values
from geodetect.vector.literal import escape_path
from geodetect.vector.outputs import SEARCHED

_OPTION = re.compile(r"\|(?=\w+=)")


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

    @classmethod
    def parse(cls, source: str | Path, layer: str | int | None = None) -> VectorFile:
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
        named, where, number = (given.pop(option, None) for option in ("layername", "subset", "layerid"))
        if given or (number is not None and not number.isdigit()):
            raise LabelsError(
                f"of {source} only |layername=NAME, |layerid=NUMBER and |subset=CONDITION are understood after the "
                "path; leave the rest out"
            )
        own = int(number) if named is None and number is not None else named
        if layer is not None and own not in (None, layer):
            raise ArgumentError(f"layer={layer!r} contradicts {source}; choose the layer in one of the two")
        return cls(path, own if layer is None else layer, where)

    @property
    def name(self) -> str:
        """The name of the file in messages."""
        return Path(name_of(self.path)).name

    def find_layer(self) -> tuple[int, str]:
        """Find the layer to read: the one chosen, else the first that holds features, with a warning if there are more.

        Returns:
            number of the layer from 0, and a note of the others; empty where there are none.

        Raises:
            LabelsError: if the layer that was chosen does not exist, or has no geometry.
            ValueError: if there are no layers.
        """
        layers = pyogrio.list_layers(escape_path(self.path)).tolist()
        if not layers:
            raise ValueError("it holds no layers")
        names = [str(layer) for layer, _ in layers]
        spatial = [number for number, (_, kind) in enumerate(layers) if kind is not None]
        if self.layer is not None:
            number = self._number_of(self.layer, names)
            if spatial and number not in spatial:
                others = join_values(names[each] for each in spatial)
                raise LabelsError(
                    f"layer {names[number]!r} of {self.name} has no geometry; choose one that has: {others}"
                )
            return number, ""
        # The ground that was searched lies beside what was found there. CSV is said to be without geometry until it is
        # opened with the options that find it.
        usable = [number for number in spatial if names[number] != SEARCHED] or spatial or [0]
        if len(usable) > 1:  # GPX, for one, always has five layers, most of them empty
            usable = [number for number in usable if self._holds_features(number)] or usable[:1]
        first, *rest = usable
        if not rest:
            return first, ""
        found = join_values(names[number] for number in usable)
        warn(
            f"{self.name} has several layers: {found}; {names[first]} is read, choose one by its name as in "
            f"{self.name}|layername={names[rest[0]]}"
        )
        return first, f"read layer {names[first]} of {found}"

    def _number_of(self, layer: str | int, names: Sequence[str]) -> int:
        """Return the number of a layer given by name or number; a name that is a number counts as a name first."""
        if isinstance(layer, str) and layer in names:
            return names.index(layer)
        if str(layer).isdigit() and int(layer) < len(names):
            return int(layer)
        if str(layer) in names:  # layers may be called 2019 and 2024
            return names.index(str(layer))
        raise LabelsError(f"{self.name} has no layer {layer!r}; it has {join_values(names)}")

    def _holds_features(self, number: int) -> bool:
        """Return whether a layer may hold a feature; some drivers take long to count all."""
        options = {"layer": number, "max_features": 1, "read_geometry": False, "return_fids": True}
        try:
            return len(pyogrio.raw.read(escape_path(self.path), **options)[1]) > 0
        except RuntimeError:  # of a layer that cannot be read, this is not known
            return True
