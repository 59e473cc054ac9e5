"""Colours of lines, and a figure that notebooks display."""

from __future__ import annotations

from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT = "#333333", "#BBBBBB"
LINE, SECOND = "#0072B2", "#D55E00"


class ShownFigure(Figure):
    """A Figure that a notebook displays; a plain one needs `%matplotlib inline` first."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def tidy(ax: Axes) -> None:
    """Give the axes a faint grid and no frame."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#E8E8E8", linewidth=0.8)
    ax.set_axisbelow(True)
