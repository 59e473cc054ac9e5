"""Colours of classes, the same in figures, on maps and in other programs."""

from __future__ import annotations

from collections.abc import Iterable

# Okabe and Ito's colours, distinct with any colour vision (https://jfly.uni-koeln.de/color/); without their
# black, which shadows in aerial imagery would hide.
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
# Right, wrong and missed, from the same palette.
OUTCOMES = {"TP": "#56B4E9", "FP": "#D55E00", "FN": "#F0E442"}


def class_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each class by its place in `names`; colours repeat after seven classes."""
    return {name: _OKABE_ITO[k % len(_OKABE_ITO)] for k, name in enumerate(dict.fromkeys(names))}
