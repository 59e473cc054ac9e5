"""`DetectionData`: training and validation chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geodetect.anchors import LEVELS, PYRAMIDS
from geodetect.chips.anchor_fit import REACHED, AnchorSuggestion, best_iou, suggest_anchors
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.errors import ArgumentError
from geodetect.facts import html_table, join_values
from geodetect.normalization import Normalization
from geodetect.plots import Marks, check_rows, draw_chips

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class DetectionData:
    """Training and validation chips with true boxes, and the properties that a detector of them needs.

    Args:
        classes: names, without a background; `Boxes.labels` index them.
        train: training chips.
        valid: validation chips.
        chip_size: side of the largest chip in pixels.
        pixel_size_m: median side of a pixel on the ground; None without georeference.
        bands: the raster's bands, counted from 1.
        normalization: mean and standard deviation of each band, from a sample of the training chips.
        dtype: the pixels' numpy dtype.
        left_out: chips in neither part: on the border of both, or of a data set's own test part.
        batch_size: chips in a batch.
        transforms: whether training batches are augmented.
        num_workers: processes that read; None chooses.
        sampler: "balanced" if training chips with rare classes are oversampled; None if each is used once per epoch.
        seed: of the split, and of everything random in training.
        report: what was read and what was dropped, in one line.
        oriented: whether boxes are rotated with their objects.
    """

    classes: list[str]
    train: Chips
    valid: Chips
    chip_size: int
    pixel_size_m: float | None
    bands: tuple[int, ...]
    normalization: Normalization
    dtype: str
    left_out: Chips = field(default_factory=lambda: Chips([]))
    batch_size: int = 8
    transforms: bool = True
    num_workers: int | None = None
    sampler: str | None = None
    seed: int = 42
    report: str = ""
    oriented: bool = False

    @property
    def _facts(self) -> dict[str, str]:
        counts = sum(np.bincount(plan.boxes.labels, minlength=len(self.classes)) for plan in self.plans)
        at = "" if self.pixel_size_m is None else f" of {self.pixel_size_m:.4g} m"
        objects = (f"{name} {n:,}" for name, n in zip(self.classes, np.atleast_1d(counts), strict=True))
        return {
            "objects": join_values(objects),
            "chips": f"{len(self.train):,} to train, {len(self.valid):,} to validate"
            + (f", {len(self.left_out):,} left out on the border" if len(self.left_out) else ""),
            "size": f"{self.chip_size} px{at}",
            "pixels": f"bands {join_values(self.bands)} ({self.dtype})",
            **({"boxes": "oriented"} if self.oriented else {}),
            **({"report": self.report} if self.report else {}),
        }

    def __repr__(self) -> str:
        return f"DetectionData({'; '.join(self._facts.values())})"

    def _repr_html_(self) -> str:
        return html_table("DetectionData", self._facts)

    @property
    def plans(self) -> tuple[ChipPlan, ...]:
        """Chips of both parts, unread."""
        return self.train.plans + self.valid.plans

    @property
    def weights(self) -> list[float] | None:
        """Relative sampling weight of each training chip; None if each is used once per epoch.

        The repeat factor of LVIS (https://arxiv.org/abs/1908.03195, appendix B): "r_c = max(1, sqrt(t / f_c))" for a
        class in a share f_c of the chips, and for a chip the largest of its classes. The threshold t is the share of
        the commonest class here, so that all rarer classes are drawn more often.
        """
        if self.sampler is None:
            return None
        present = [np.unique(plan.boxes.labels) for plan in self.train.plans]
        share = np.bincount(np.concatenate(present), minlength=len(self.classes))
        repeat = np.sqrt(share.max() / np.maximum(share, 1))
        return [float(repeat[labels].max(initial=1.0)) for labels in present]

    def describe(self) -> pd.DataFrame:
        """Summarise the objects of both parts; an object's side is that of a square of the box's area.

        Returns:
            Rows classes and `all`; columns `chips` (with such an object), `objects`, `median_px`, `median_m`, and
            `unreached`, the share of objects whose IoU with every default anchor is below 0.5; of an oriented box its
            bounds count, as anchors are upright. `attrs` holds the numbers of chips in `train`, `valid` and `left_out`.
        """
        objects = self._objects()
        rows = {name: _summarise(objects[objects["label"] == i]) for i, name in enumerate(self.classes)}
        rows["all"] = _summarise(objects) | {"chips": len(self.plans)}
        table = pd.DataFrame.from_dict(rows, orient="index").astype({"chips": int, "objects": int})
        table.attrs = {"train": len(self.train), "valid": len(self.valid), "left_out": len(self.left_out)}
        return table

    def _objects(self) -> pd.DataFrame:
        """Return a row for each box of both parts: chip, label, side in px and m, best IoU with a default anchor."""
        frames = [
            pd.DataFrame(
                {
                    "chip": i,
                    "label": plan.boxes.labels,
                    "side": np.sqrt(plan.boxes.sizes.prod(axis=1)),
                    "metres": np.nan if self.pixel_size_m is None else self.pixel_size_m,
                    "best": best_iou(plan.boxes.bounds, (plan.window.height, plan.window.width)),
                }
            )
            for i, plan in enumerate(self.plans)
        ]
        return pd.concat(frames, ignore_index=True)

    def suggest_anchors(self, levels: Sequence[int] = LEVELS) -> AnchorSuggestion:
        """Fit base size, scales and ratios of anchors to the training boxes, with the share reached before and after.

        Args:
            levels: first and last level of the pyramid; (2, 7) adds a finer one for objects under 16 px.

        Raises:
            ArgumentError: if they are neither (3, 7) nor (2, 7).
        """
        if tuple(levels) not in PYRAMIDS:
            raise ArgumentError(f"levels must be one of {', '.join(map(str, PYRAMIDS))}; got {levels}")
        plans = [plan for plan in self.train.plans if len(plan.boxes)]
        return suggest_anchors([plan.boxes.bounds for plan in plans], (self.chip_size, self.chip_size), levels)

    def show_batch(self, rows: int = 3) -> Figure:
        """Plot training chips with their true boxes.

        Args:
            rows: of chips, 1 to 100.
        """
        check_rows(rows)
        full = [plan for plan in self.train.plans if len(plan.boxes)]
        chosen = np.random.default_rng(self.seed).permutation(len(full))[: rows * rows]
        chips = [full[i].read() for i in chosen]
        names = np.array(self.classes, dtype=object)
        return draw_chips(
            [chip.pixels for chip in chips],
            [Marks(list(chip.boxes.corners), names[chip.boxes.labels].tolist()) for chip in chips],
            classes=self.classes,
            columns=min(rows, len(chosen)),
        )


def _summarise(objects: pd.DataFrame) -> dict[str, float]:
    return {
        "chips": objects["chip"].nunique(),
        "objects": len(objects),
        "median_px": objects["side"].median(),
        "median_m": (objects["side"] * objects["metres"]).median(),
        "unreached": (objects["best"] < REACHED).mean() if len(objects) else np.nan,
    }
