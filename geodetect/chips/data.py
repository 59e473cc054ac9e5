"""What a detector learns from: chips for training and validation, and what must be known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geodetect.anchors import LEVELS, PYRAMIDS
from geodetect.chips.anchor_fit import REACHED, AnchorSuggestion, best_iou, suggest
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.errors import ArgumentError
from geodetect.facts import html_table, listed
from geodetect.plots import Marks, check_rows, draw_chips
from geodetect.stretch import Stretch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class DetectionData:
    """Chips with true boxes, split in two, and what a detector must know of them.

    Args:
        classes: names, without a background; `Boxes.labels` index them.
        train: chips to learn from.
        valid: chips to validate on.
        chip_size: side of the largest chip in pixels.
        pixel_size_m: side of a pixel on the ground; None where no raster is georeferenced.
        bands: the raster's bands, counted from 1.
        stretch: mean and standard deviation of each band, from a sample of the training chips.
        dtype: the pixels' numpy dtype.
        left_out: chips in neither part: on the border of both, or of a data set's own part to test with.
        batch_size: chips in a batch.
        transforms: whether training batches are changed at random.
        num_workers: processes that read; None chooses.
        sampler: "balanced" where training chips with rare classes come more often; None where each comes once.
        seed: of the split, and of all that is random in training.
        report: what was read and what was left out, in a line each.
    """

    classes: list[str]
    train: Chips
    valid: Chips
    chip_size: int
    pixel_size_m: float | None
    bands: tuple[int, ...]
    stretch: Stretch
    dtype: str
    left_out: Chips = field(default_factory=lambda: Chips([]))
    batch_size: int = 8
    transforms: bool = True
    num_workers: int | None = None
    sampler: str | None = None
    seed: int = 42
    report: str = ""

    @property
    def _facts(self) -> dict[str, str]:
        counts = sum(np.bincount(plan.boxes.labels, minlength=len(self.classes)) for plan in self.plans)
        at = "" if self.pixel_size_m is None else f" of {self.pixel_size_m:.4g} m"
        return {
            "objects": listed(f"{name} {n:,}" for name, n in zip(self.classes, np.atleast_1d(counts), strict=True)),
            "chips": f"{len(self.train):,} to train, {len(self.valid):,} to validate"
            + (f", {len(self.left_out):,} left out on the border" if len(self.left_out) else ""),
            "size": f"{self.chip_size} px{at}",
            "pixels": f"bands {listed(self.bands)} ({self.dtype})",
            **({"report": self.report} if self.report else {}),
        }

    def __repr__(self) -> str:
        return f"DetectionData({'; '.join(self._facts.values())})"

    def _repr_html_(self) -> str:
        return html_table("DetectionData", self._facts)

    @property
    def plans(self) -> tuple[ChipPlan, ...]:
        """All chips of both parts, unread."""
        return self.train.plans + self.valid.plans

    @property
    def weights(self) -> list[float] | None:
        """How often each training chip comes, relative to the others; None where each comes once an epoch.

        The repeat factor of LVIS (https://arxiv.org/abs/1908.03195, appendix B): "r_c = max(1, sqrt(t / f_c))" for a
        class in a share f_c of the chips, and for a chip the largest of its classes. The threshold t is the share of
        the commonest class here, so that every class but that one is raised.
        """
        if self.sampler is None:
            return None
        present = [np.unique(plan.boxes.labels) for plan in self.train.plans]
        share = np.bincount(np.concatenate(present), minlength=len(self.classes))
        repeat = np.sqrt(share.max() / np.maximum(share, 1))
        return [float(repeat[labels].max(initial=1.0)) for labels in present]

    def describe(self) -> pd.DataFrame:
        """One row per class and `all`, over both parts; sides are those of a square of the box's area.

        Returns:
            columns `chips` (with such an object), `objects`, `median_px`, `median_m`, and `unreached`, the
            share of objects that no default anchor overlaps by 0.5. `attrs` holds the number of chips
            that `train`, that are `valid`, and that were `left_out`.
        """
        objects = self._objects()
        rows = {name: _summary(objects[objects["label"] == i]) for i, name in enumerate(self.classes)}
        rows["all"] = _summary(objects) | {"chips": len(self.plans)}
        table = pd.DataFrame.from_dict(rows, orient="index").astype({"chips": int, "objects": int})
        table.attrs = {"train": len(self.train), "valid": len(self.valid), "left_out": len(self.left_out)}
        return table

    def _objects(self) -> pd.DataFrame:
        """A row per box of both parts: its chip, label, side in px and m, and the best default anchor's IoU."""
        frames = [
            pd.DataFrame(
                {
                    "chip": i,
                    "label": plan.boxes.labels,
                    "side": np.sqrt(plan.boxes.sizes.prod(axis=1)),
                    "metres": np.nan if self.pixel_size_m is None else self.pixel_size_m,
                    "best": best_iou(plan.boxes.xyxy, (plan.window.height, plan.window.width)),
                }
            )
            for i, plan in enumerate(self.plans)
        ]
        return pd.concat(frames, ignore_index=True)

    def suggest_anchors(self, levels: Sequence[int] = LEVELS) -> AnchorSuggestion:
        """Base size, scales and ratios that reach most training boxes, with the share reached before and after.

        Args:
            levels: first and last level of the pyramid; (2, 7) has a finer one for objects under 16 px.

        Raises:
            ArgumentError: if they are neither (3, 7) nor (2, 7).
        """
        if tuple(levels) not in PYRAMIDS:
            raise ArgumentError(f"levels must be one of {', '.join(map(str, PYRAMIDS))}; got {levels}")
        plans = [plan for plan in self.train.plans if len(plan.boxes)]
        return suggest([plan.boxes.xyxy for plan in plans], (self.chip_size, self.chip_size), levels)

    def show_batch(self, rows: int = 3) -> Figure:
        """A figure of training chips with their true boxes.

        Args:
            rows: rows of pictures, 1 to 100.
        """
        check_rows(rows)
        full = [plan for plan in self.train.plans if len(plan.boxes)]
        chosen = np.random.default_rng(self.seed).permutation(len(full))[: rows * rows]
        chips = [full[i].read() for i in chosen]
        names = np.array(self.classes, dtype=object)
        return draw_chips(
            [chip.pixels for chip in chips],
            [Marks.of_boxes(chip.boxes.xyxy, names[chip.boxes.labels]) for chip in chips],
            classes=self.classes,
            columns=min(rows, len(chosen)),
        )


def _summary(objects: pd.DataFrame) -> dict[str, float]:
    return {
        "chips": objects["chip"].nunique(),
        "objects": len(objects),
        "median_px": objects["side"].median(),
        "median_m": (objects["side"] * objects["metres"]).median(),
        "unreached": (objects["best"] < REACHED).mean() if len(objects) else np.nan,
    }
