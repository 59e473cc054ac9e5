"""The colour of each class, the same in figures, on maps and in other programs."""

from __future__ import annotations

from collections.abc import Iterable

# Okabe and Ito's colours, told apart with any colour vision (https://jfly.uni-koeln.de/color/); without their
# black, which shadows in pictures from above would hide.
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
# Right, wrong and missed, of the same palette, so that no two are taken for each other.
OUTCOMES = {"TP": "#56B4E9", "FP": "#D55E00", "FN": "#F0E442"}


def class_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each class, by its place in `names`, as in every figure of the same classes; repeats after seven."""
    return {name: _OKABE_ITO[k % len(_OKABE_ITO)] for k, name in enumerate(dict.fromkeys(names))}
