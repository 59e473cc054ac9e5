"""Draw the rooms of the package on their floors, with a line for each import: `python docs/rooms.py [OUT.svg]`.

Floors are the layers that import-linter checks, read from pyproject.toml. The more modules import along a line, the
wider it is. Lines to `errors` and `addresses`, which all rooms use, are left out.
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from pathlib import Path

import grimp
import matplotlib as mpl
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/pages/pictures/rooms.svg"
WIDTH, HEIGHT = 1.7, 0.55  # of a room; floors are 1.15 apart
EVERYWHERE = ("errors", "addresses")


def floors() -> list[list[str]]:
    """Return the rooms of each floor, from the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def imports() -> Counter[tuple[str, str]]:
    """Count the imports between rooms."""
    graph = grimp.build_graph("geodetect")
    counts: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            above, below = (f"{name}.".split(".")[1] for name in (module, imported))
            if above != below not in EVERYWHERE:
                counts[above, below] += 1
    return counts


def draw(path: Path) -> None:
    """Draw the picture into a file; the suffix gives the format."""
    rows = floors()
    places = {
        room: ((k - (len(row) - 1) / 2) * 2.3, -1.15 * number)
        for number, row in enumerate(rows)
        for k, room in enumerate(row)
    }
    mpl.rcParams["svg.hashsalt"] = "rooms"  # the same file each time
    figure, axes = plt.subplots(figsize=(10, 11), layout="constrained")
    for (above, below), count in sorted(imports().items()):
        if above in places and below in places:
            (x1, y1), (x2, y2) = places[above], places[below]
            line = {
                "arrowstyle": "-",
                "color": "#3b6ea5",
                "alpha": 0.25,
                "lw": 0.5 + count / 8,
                "connectionstyle": "arc3,rad=0.06",
            }
            axes.annotate("", (x2, y2 + HEIGHT / 2), (x1, y1 - HEIGHT / 2), arrowprops=line)
    for room, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.1", "facecolor": "#f4f1e8", "edgecolor": "#55504a"}
        axes.add_patch(
            mpl.patches.FancyBboxPatch((x - WIDTH / 2, y - HEIGHT / 2 + 0.1), WIDTH, HEIGHT - 0.2, **box, zorder=3)
        )
        axes.text(x, y, room, ha="center", va="center", zorder=4, fontsize=10)
    half = max(abs(x) for x, _ in places.values()) + WIDTH
    axes.set(xlim=(-half, half), ylim=(-1.15 * len(rows) + 0.4, 0.7))
    axes.axis("off")
    axes.set_title("Rooms of geodetect: imports go downwards only", fontsize=12)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if sys.argv[1:] else PICTURE)
