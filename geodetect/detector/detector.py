"""The detector itself: pixels in, boxes out.

Shapes: B chips, C bands, H W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from geodetect.addresses import expanded
from geodetect.boxes import Boxes
from geodetect.detector import file
from geodetect.errors import ArgumentError, ModelError, is_name, is_number, is_share, is_whole, warn
from geodetect.facts import html_table, listed, text_of
from geodetect.network import precision as precisions
from geodetect.network.batching import fastest, most_on_cpu
from geodetect.network.coding import candidates, suppressed
from geodetect.network.inference import evaluating, frozen, standardised
from geodetect.network.retinanet import Network
from geodetect.network.transfer import Fetched, sent
from geodetect.stretch import Stretch

_UNKNOWN_SCORE = 0.5  # where nobody knows which score serves best
_LOWEST_SCORE = 0.05  # a candidate's; what is kept of them is for whoever writes the result to say

Scores = float | Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Launched:
    """A batch that is under way: what `Detector.launch` gives and `Detector.collect` takes.

    Args:
        candidates: boxes before suppression, on their way from the device.
        nms_iou: for the suppression.
    """

    candidates: Fetched
    nms_iou: float


class Detector:
    """A trained network with the names, bands, stretch and pixel size that it was trained with.

    Args:
        network: gives logits and deltas.
        classes: names, in the order of the network's classes.
        bands: numbers from 1 of the raster's bands that it takes, in order.
        stretch: from the raster's numbers to the network's.
        chip_size: side of the chips it was trained on, in pixels.
        overlap: of windows in inference, in pixels.
        pixel_size_m: of the chips; None where that is unknown.
        min_score: the score that gave the best F1 in validation, for all classes or by name.
        summary: how it was trained and how well it did; anything that JSON holds.
        device: where to run; None leaves the network where it is.
        precision: "auto" (bf16 where it is native and, in `frozen`, faster), "float32" or "bf16".

    Raises:
        ArgumentError: if the parts do not fit each other.
    """

    def __init__(
        self,
        network: Network,
        classes: Sequence[str],
        *,
        bands: Sequence[int],
        stretch: Stretch,
        chip_size: int,
        overlap: int,
        pixel_size_m: float | None = None,
        min_score: Scores = 0.5,
        summary: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        precision: str = "auto",
    ) -> None:
        for name, values in {"classes": classes, "bands": bands}.items():
            if isinstance(values, str | bytes) or not isinstance(values, Iterable):
                raise ArgumentError(f"{name} must be a list; got {values!r:.80}")
        self.classes, self.bands, self.stretch = list(classes), tuple(bands), stretch
        self.chip_size, self.overlap, self.pixel_size_m = chip_size, overlap, pixel_size_m
        self.min_score, self.summary, self.precision = min_score, dict(summary or {}), precision
        self.network = self.running = network.to(memory_format=torch.channels_last)
        if device is not None:
            self.network.to(known_device(device))
        self._check()

    def _check(self) -> None:
        counts = {"network": self.network.n_bands, "stretch": self.stretch.n_bands, "bands": len(self.bands)}
        if len(set(counts.values())) > 1:
            raise ArgumentError(f"network, stretch and bands must agree in the number of bands; got {counts}")
        if len(self.classes) != self.network.n_classes or len(set(self.classes)) != len(self.classes):
            raise ArgumentError(
                f"every class of the network needs its own name; got {self.network.n_classes} classes, "
                f"names {self.classes}"
            )
        size_m = self.pixel_size_m
        for name, possible, expected in (
            ("classes", all(map(is_name, self.classes)), "names of one line without control characters"),
            ("bands", all(is_whole(band) and band > 0 for band in self.bands), "whole numbers, counted from 1"),
            ("chip_size", is_whole(self.chip_size), "a whole number of pixels"),
            ("overlap", is_whole(self.overlap), "a whole number of pixels"),
            ("pixel_size_m", size_m is None or (is_number(size_m) and size_m > 0), "metres above 0, or None"),
        ):
            if not possible:
                raise ArgumentError(f"{name} must be {expected}; got {getattr(self, name)!r:.80}")
        if not 0 <= self.overlap < self.chip_size:
            raise ArgumentError(
                f"overlap must be at least 0 and smaller than chip_size; "
                f"got overlap={self.overlap}, chip_size={self.chip_size}"
            )
        self._floors(_known(self.min_score))
        precisions.resolve(self.precision, self.device)

    @property
    def facts(self) -> dict[str, Any]:
        """What there is to know about the detector, for people: names, with numbers and texts."""
        spec = self.network.spec
        return {
            "classes": listed(self.classes),
            "bands": listed(self.bands),
            "pixel size": None if self.pixel_size_m is None else f"{self.pixel_size_m:g} m",
            "chip size": f"{self.chip_size} px, overlap {self.overlap} px",
            "backbone": self.network.backbone_name,
            "anchors": f"base {spec.anchor_size:g} strides, scales {listed(spec.scales)}, ratios {listed(spec.ratios)}",
            "levels": f"P{spec.levels[0]} to P{spec.levels[1]}",
            "heads": "group norm" if self.network.head_norm else "no norm",
            "best score": self.min_score,
            **({"epochs": "none yet"} if self.network.class_head.gives_prior else self.summary),
        }

    def __repr__(self) -> str:
        at = "" if self.pixel_size_m is None else f" of {self.pixel_size_m:g} m"
        told = "untrained" if self.network.class_head.gives_prior else text_of(self.summary)
        return (
            f"Detector({listed(self.classes)}: {self.network.backbone_name}, {self.chip_size} px{at}, "
            f"bands {listed(self.bands)}{'; ' if told else ''}{told})"
        )

    def _repr_html_(self) -> str:
        return html_table("Detector", self.facts)

    def warn_if_untrained(self) -> None:
        """Warn if no training has changed how the network scores, so that it gives about 0.01 everywhere."""
        if self.network.class_head.gives_prior:
            warn("this model has learnt nothing yet, and what it finds is random; train it first")

    @property
    def device(self) -> torch.device:
        """Where the network lies and runs."""
        return self.network.device

    def detect(
        self, pixels: np.ndarray | Tensor, *, min_score: Scores = _LOWEST_SCORE, nms_iou: float = 0.5
    ) -> list[Boxes]:
        """What is on each chip, best first, in the chip's pixels; never reaching over its edge.

        Args:
            pixels: (B, C, H, W) as read from the raster, of any type of number; what is not finite counts as the mean.
            min_score: lowest score, for all classes or by name (classes not named: 0.05).
            nms_iou: overlap above which the worse of two boxes of a class is dropped.

        Returns:
            one `Boxes` a chip, empty where nothing was found; [] for no chips.

        Raises:
            ModelError: if the pixels have another number of bands than the network.
            ArgumentError: if a threshold is not between 0 and 1, or a class is unknown.
        """
        return self.collect(self.launch(pixels, min_score=min_score, nms_iou=nms_iou))

    def launch(
        self, pixels: np.ndarray | Tensor, *, min_score: Scores = _LOWEST_SCORE, nms_iou: float = 0.5
    ) -> Launched:
        """What `collect` takes to give what `detect` does; a GPU works on it while the next batch is launched.

        Arguments and errors are those of `detect`.
        """
        pixels = self._tensor(pixels)
        floors = sent(self._floors(min_score), self.device)
        _between_0_and_1("nms_iou", nms_iou)
        if not len(pixels):
            return Launched(Fetched(torch.zeros(0, 0, 6)), nms_iou)
        with torch.inference_mode(), evaluating(self.running):
            pictures = standardised(pixels, self.stretch.mean, self.stretch.std, self.device)
            with precisions.autocast(precisions.resolve(self.precision, self.device), self.device):
                logits, deltas = self.running(pictures)
            padded = pictures.shape[2], pictures.shape[3]
            found = candidates(
                logits,
                deltas,
                self.running.anchors(padded),
                (pixels.shape[2], pixels.shape[3]),
                level_sizes=self.running.level_sizes(padded),
                min_score=floors,
            )
            return Launched(Fetched(found), nms_iou)

    def collect(self, launched: Launched) -> list[Boxes]:
        """The boxes of a batch that was launched, as `detect` gives them; in any order, once each."""
        with torch.inference_mode():
            return suppressed(launched.candidates.wait(), launched.nms_iou)

    def frozen(self, precision: str | None = None, device: str | torch.device | None = None) -> Detector:
        """This detector made fast for many chips; what its network learns later does not reach the copy.

        Args:
            precision: "float32" or "bf16"; None: this detector's own, "auto" by a short trial on its device.
            device: where the copy runs; None: where this one does.

        Raises:
            ArgumentError: if there is no such precision or device.
        """
        fast = copy(self)
        if device is not None and known_device(device) != self.device:
            fast.network = deepcopy(self.network).to(known_device(device))
        fast.precision = precision or self.precision
        if fast.precision == "auto":
            fast.precision = precisions.faster(fast.device)
        fast.running = frozen(fast.network, precisions.resolve(fast.precision, fast.device))
        return fast

    def suited_batch_size(self, chip_size: int) -> int:
        """How many chips of `chip_size` pixels to give at once on this device, by a short trial where that tells more.

        Args:
            chip_size: side of the chips.
        """
        precision = precisions.resolve(self.precision, self.device)
        if self.device.type == "cpu":
            return most_on_cpu(chip_size, precision)
        return fastest(lambda n: self.detect(np.zeros((n, len(self.bands), chip_size, chip_size), np.uint8)))

    def _tensor(self, pixels: np.ndarray | Tensor) -> Num[Tensor, "B C H W"]:
        """The pixels as a tensor where they lie, checked."""
        if isinstance(pixels, np.ndarray):
            native = pixels.dtype.newbyteorder("=")
            pixels = torch.from_numpy(np.require(pixels, native, ["C", "W"]))  # a copy only where torch needs one
        if not isinstance(pixels, Tensor):
            raise ArgumentError(f"pixels must be an array or tensor (B, C, H, W); got {type(pixels).__name__}")
        if pixels.ndim != 4 or 0 in pixels.shape[2:]:  # noqa: PLR2004
            raise ArgumentError(f"pixels must be (B, C, H, W) with H and W above 0; got shape {tuple(pixels.shape)}")
        if pixels.shape[1] != len(self.bands):
            remedy = "give as many, for example those of an array (C, H, W) by pixels[[0, 1, 2]]"
            if pixels.shape[3] < min(pixels.shape[1:3]):
                remedy = "the bands seem to come last, and np.moveaxis(pixels, -1, -3) puts them first, as (C, H, W)"
            raise ModelError(
                f"the model takes {len(self.bands)} bands {self.bands}; got pixels of {pixels.shape[1]}; {remedy}"
            )
        return pixels

    def _floors(self, min_score: Scores) -> Float[Tensor, " K"]:
        """The lowest score of each class."""
        by_class = min_score if isinstance(min_score, Mapping) else dict.fromkeys(self.classes, min_score)
        for name, score in by_class.items():
            if name not in self.classes:
                near = get_close_matches(name, self.classes, n=1) or self.classes[:5]
                raise ArgumentError(
                    f"min_score names the class {name!r}, which the model does not know; it knows {', '.join(near)}"
                )
            _between_0_and_1("min_score", score)
        return torch.tensor([by_class.get(name, _LOWEST_SCORE) for name in self.classes])

    def save(self, path: str | Path) -> Path:
        """The path of the one file that now holds all that inference needs.

        Weights as safetensors, the rest as JSON in its metadata. The file appears under its name when it is whole.

        Raises:
            OutputError: if the suffix is not `.safetensors` or the file cannot be written there.
            ArgumentError: if something was set to what cannot be loaded again.
        """
        self._check()
        self.warn_if_untrained()
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        return file.write(Path(expanded(path)), weights, self._facts())

    def _facts(self) -> dict[str, Any]:
        """All but the weights, as JSON takes it."""
        return {
            "backbone": self.network.backbone_name,
            "anchors": asdict(self.network.spec),
            "norm_eps": self.network.norm_eps,
            "head_norm": self.network.head_norm,
            "classes": self.classes,
            "bands": self.bands,
            "stretch": asdict(self.stretch),
            "chip_size": self.chip_size,
            "overlap": self.overlap,
            "pixel_size_m": self.pixel_size_m,
            "min_score": _known(self.min_score),
            "summary": self.summary,
        }


def known_device(device: str | torch.device) -> torch.device:
    """Return the device with this name.

    Raises:
        ArgumentError: if it is not there.
    """
    try:
        known = torch.device(device)
        torch.empty(0, device=known)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch was built without CUDA
        raise ArgumentError(f'there is no device {str(device)!r} here ({first_line(error)}); use "cpu"') from error
    return known


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _between_0_and_1(name: str, value: float) -> None:
    if not is_share(value):
        raise ArgumentError(f"{name} must lie between 0 and 1; got {value!r}")


def _known(scores: Any) -> Any:
    """Scores as numbers of Python, for all classes or by name; 0.5 for None and NaN."""
    if isinstance(scores, Mapping):
        return {name: _known(score) for name, score in scores.items()}
    if scores is None or (isinstance(scores, Real) and math.isnan(scores)):
        return _UNKNOWN_SCORE
    return float(scores) if isinstance(scores, Real) else scores
