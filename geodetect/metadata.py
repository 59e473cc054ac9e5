"""Metadata of a detector: carried by every kind of detector, and stored in every file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from numbers import Real
from typing import Any, Self, TypeAlias

import numpy as np
from jaxtyping import Float

from geodetect.anchors import AnchorSpec
from geodetect.errors import ArgumentError, check_whole, is_name, is_number, is_share, is_whole
from geodetect.facts import join_values
from geodetect.normalization import Normalization

DEFAULT_MIN_SCORE = 0.5  # threshold of detectors that were not validated
CANDIDATE_MIN_SCORE = 0.05  # lowest score of a candidate; a higher threshold is applied to the result
NMS_IOU = 0.5  # default of inference
_TOPK = 1000, 256 * 256  # predictions of a pyramid level that are decoded, in an image of so many pixels

Scores: TypeAlias = float | Mapping[str, float]
"""A score for all classes, or scores by class."""


def topk_candidates(shape: tuple[int, int]) -> int:
    """Return how many predictions of each pyramid level are decoded for an image of (H, W) pixels.

    "At most 1k top-scoring predictions per FPN level" (https://arxiv.org/abs/1708.02002, section 4.1) is meant for
    photographs, which hold some ten objects. A window of a map holds the more the larger it is, so it is 1,000 for
    each 256 x 256 px, and 1,000 below.
    """
    number, area = _TOPK
    return max(number, number * shape[0] * shape[1] // area)


@dataclass(frozen=True)
class Architecture:
    """Architecture of a network, without its weights.

    Args:
        backbone: a name that `network.backbones.build` knows.
        anchors: their shapes.
        norm_eps: epsilon of the backbone's batch norms; None for their own.
        head_norm: "batch" norm by level or "group" norm in the heads, or None.
        width: channels of the pyramid and of the heads.
        depth: convolutions of a head before its last.
        oriented: whether the box head also gives the angle of each box.

    Raises:
        ArgumentError: if a value of the heads is not possible.
    """

    backbone: str
    anchors: AnchorSpec = field(default_factory=AnchorSpec)
    norm_eps: float | None = None
    head_norm: str | None = None
    width: int = 256  # "all pyramid levels have C = 256 channels" (https://arxiv.org/abs/1708.02002, section 4)
    depth: int = 4  # "applies four 3x3 conv layers" (likewise)
    oriented: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_norm", parse_norm(self.head_norm))
        check_whole("width", self.width)
        check_whole("depth", self.depth)

    @property
    def heads(self) -> str:
        """Human-readable description of the heads."""
        norm = {"batch": "batch norm by level", "group": "group norm", None: "no norm"}[self.head_norm]
        return f"{self.depth} convolutions of {self.width} channels, {norm}"

    def to_json(self) -> dict[str, Any]:
        """Return the values that JSON holds, "oriented" only where it is true; `from_json` undoes it."""
        return {name: value for name, value in asdict(self).items() if name != "oriented" or value}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Return the architecture that `to_json`, of this or an earlier version, describes."""
        return cls(
            facts["backbone"],
            AnchorSpec(**facts["anchors"]),
            facts.get("norm_eps"),
            facts.get("head_norm"),  # heads had none in version 1, and group norm if any up to version 3
            facts.get("width", cls.width),
            facts.get("depth", cls.depth),
            facts.get("oriented", cls.oriented),
        )


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """All that inference needs to know of a detector besides its weights.

    Args:
        classes: names that the labels of its boxes index.
        bands: the raster's bands that it takes, in order, counted from 1.
        chip_size: side of the chips that it takes, in pixels.
        overlap: of windows in inference, in pixels.
        pixel_size_m: ground resolution that it expects; None for the scene's own.
        min_score: recommended score threshold for maps, for all classes or by class; None and NaN mean 0.5.
        normalization: per-band normalisation of pixel values.
        min_size: side in pixels to which the shorter side of every image is resized before the network sees it, as
            torchvision's detectors do; None for no resizing.
        architecture: of its network; None if it is not geodetect's own.
        oriented: whether its boxes have angles; an architecture decides this itself.
        summary: training settings and scores; any JSON values.

    Raises:
        ArgumentError: if a value is not possible, or two do not fit each other.
    """

    classes: Sequence[str]
    bands: Sequence[int]
    chip_size: int
    overlap: int
    pixel_size_m: float | None = None
    min_score: Scores = DEFAULT_MIN_SCORE
    normalization: Normalization | None = None
    min_size: int | None = None
    architecture: Architecture | None = None
    oriented: bool = False
    summary: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("classes", "bands"):
            values = getattr(self, name)
            if isinstance(values, str | bytes) or not isinstance(values, Iterable):
                raise ArgumentError(f"{name} must be a list; got {values!r:.80}")
            object.__setattr__(self, name, tuple(values))
        object.__setattr__(self, "min_score", _parse_scores(self.min_score))
        object.__setattr__(self, "summary", dict(self.summary or {}))
        if self.architecture is not None:
            object.__setattr__(self, "oriented", self.architecture.oriented)
        self._check()
        self.scores(self.min_score)

    def _check(self) -> None:
        size_m = self.pixel_size_m
        for name, possible, expected in (
            ("classes", all(map(is_name, self.classes)), "names of one line without control characters"),
            ("bands", all(is_whole(band) and band > 0 for band in self.bands), "whole numbers, counted from 1"),
            ("chip_size", is_whole(self.chip_size), "a whole number of pixels"),
            ("overlap", is_whole(self.overlap), "a whole number of pixels"),
            ("oriented", isinstance(self.oriented, bool), "True or False"),
            ("min_size", self.min_size is None or is_whole(self.min_size), "a whole number of pixels, or None"),
            ("pixel_size_m", size_m is None or (is_number(size_m) and size_m > 0), "metres above 0, or None"),
        ):
            if not possible:
                raise ArgumentError(f"{name} must be {expected}; got {getattr(self, name)!r:.80}")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ArgumentError(f"every class needs its own name; got names {list(self.classes)}")
        if not 0 <= self.overlap < self.chip_size:
            raise ArgumentError(
                f"overlap must be at least 0 and smaller than chip_size; "
                f"got overlap={self.overlap}, chip_size={self.chip_size}"
            )
        if self.normalization is not None and self.normalization.n_bands != len(self.bands):
            raise ArgumentError(
                f"normalization and bands must agree in number; got {self.normalization.n_bands} and {len(self.bands)}"
            )

    def scores(self, min_score: Scores) -> Float[np.ndarray, "K"]:
        """Return the minimum score of each class; classes that a mapping does not name get 0.05.

        Raises:
            ArgumentError: if a score is not between 0 and 1, or a class is unknown.
        """
        by_class = min_score if isinstance(min_score, Mapping) else dict.fromkeys(self.classes, min_score)
        for name, score in by_class.items():
            if name not in self.classes:
                near = get_close_matches(name, self.classes, n=1) or self.classes[:5]
                raise ArgumentError(
                    f"min_score names the class {name!r}, which the model does not know; it knows {', '.join(near)}"
                )
            if not is_share(score):
                raise ArgumentError(f"min_score must lie between 0 and 1; got {score!r}")
        return np.array([by_class.get(name, CANDIDATE_MIN_SCORE) for name in self.classes])

    @property
    def lowest_min_score(self) -> float:
        """Lowest threshold of any class, for programs that have a single one."""
        return min(self.min_score.values()) if isinstance(self.min_score, Mapping) else self.min_score

    def to_json(self) -> dict[str, Any]:
        """Return the values that JSON holds, those of the architecture among them; `from_json` undoes it."""
        apart = ("normalization", "min_size", "architecture", "oriented")
        own = {name: value for name, value in vars(self).items() if name not in apart}
        scaling = {} if self.normalization is None else {"stretch": self.normalization.to_json()}
        resized = {} if self.min_size is None else {"min_size": self.min_size}
        oriented = {"oriented": True} if self.oriented else {}
        return own | scaling | resized | oriented | ({} if self.architecture is None else self.architecture.to_json())

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave, or what earlier versions wrote.

        Raises:
            ArgumentError: if a value is not possible.
            KeyError: if one is missing.
            TypeError: if one is of another kind.
        """
        return cls(
            classes=facts["classes"],
            bands=facts["bands"],
            chip_size=facts["chip_size"],
            overlap=facts["overlap"],
            pixel_size_m=facts["pixel_size_m"],
            min_score=facts["min_score"],
            normalization=Normalization.from_json(facts["stretch"]) if "stretch" in facts else None,
            min_size=facts.get("min_size"),
            architecture=Architecture.from_json(facts) if "anchors" in facts else None,
            oriented=facts.get("oriented", False),
            summary=facts.get("summary", {}),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Human-readable summary, as a dict."""
        told = {
            "classes": join_values(self.classes),
            "bands": join_values(self.bands),
            "pixel size": None if self.pixel_size_m is None else f"{self.pixel_size_m:g} m",
            "chip size": f"{self.chip_size} px, overlap {self.overlap} px"
            + ("" if self.min_size is None else f"; images are enlarged to {self.min_size} px"),
        }
        if self.oriented:
            told["boxes"] = "oriented"
        if self.architecture is not None:
            anchors = self.architecture.anchors
            told |= {
                "backbone": self.architecture.backbone,
                "anchors": f"base {anchors.anchor_size:g} strides, scales {join_values(anchors.scales)}, "
                f"ratios {join_values(anchors.ratios)}",
                "levels": f"P{anchors.levels[0]} to P{anchors.levels[1]}",
                "heads": self.architecture.heads,
            }
        return told | {"best score": self.min_score, **self.summary}


class HasMetadata:
    """A detector whose attributes are those of its `metadata`."""

    metadata: Metadata

    @property
    def classes(self) -> list[str]:
        """Names that the labels of boxes index, from 0."""
        return list(self.metadata.classes)

    @property
    def bands(self) -> tuple[int, ...]:
        """The raster's bands that it takes, counted from 1."""
        return tuple(self.metadata.bands)

    @property
    def chip_size(self) -> int:
        """Side of the chips that it takes, in pixels."""
        return self.metadata.chip_size

    @property
    def overlap(self) -> int:
        """Overlap of adjacent windows, in pixels."""
        return self.metadata.overlap

    @property
    def pixel_size_m(self) -> float | None:
        """Side of a pixel on the ground that it wants to see, in metres; None for the scene's own."""
        return self.metadata.pixel_size_m

    @property
    def min_score(self) -> Scores:
        """Recommended score threshold for maps, for all classes or by class; may be set."""
        return self.metadata.min_score

    @min_score.setter
    def min_score(self, scores: Scores) -> None:
        self.metadata = replace(self.metadata, min_score=scores)

    @property
    def oriented(self) -> bool:
        """Whether its boxes have angles."""
        return self.metadata.oriented

    @property
    def summary(self) -> Mapping[str, Any]:
        """Training settings and scores."""
        return self.metadata.summary


def parse_norm(head_norm: Any) -> str | None:
    """Return the name of a norm in the heads: "batch", "group", or None; True is "group", and False None.

    Raises:
        ArgumentError: if there is no such norm.
    """
    if head_norm is None or isinstance(head_norm, bool):
        return "group" if head_norm else None
    if head_norm not in ("batch", "group"):
        raise ArgumentError(f'head_norm must be "batch", "group", True (group norm) or False; got {head_norm!r}')
    return str(head_norm)


def _parse_scores(scores: Any) -> Any:
    """Return scores as numbers of Python, for all classes or by name; 0.5 for None and NaN."""
    if isinstance(scores, Mapping):
        return {name: _parse_scores(score) for name, score in scores.items()}
    if scores is None or (isinstance(scores, Real) and math.isnan(scores)):
        return DEFAULT_MIN_SCORE
    return float(scores) if isinstance(scores, Real) else scores
