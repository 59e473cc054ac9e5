"""What the formats share: the network as a program and the facts beside it.

Shapes: B pictures, C bands, S the side of a chip, A anchors, K classes, N candidates of a picture.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from geodetect.detector import Detector
from geodetect.errors import OutputError
from geodetect.network.coding import decode
from geodetect.network.inference import MULTIPLE
from geodetect.network.retinanet import Network

BYTE = 255.0  # what other tools divide pixels by
_MAX_PER_LEVEL = 1000  # as many as the detector itself looks at
_BLOTCH = 16  # pixels
_EXAMPLE = 2  # pictures; with one, PyTorch takes B for a constant


class Detections(nn.Module):
    """The network from pixels to boxes: it standardises, decodes and clips; only suppression is left to do.

    Of each level the 1,000 anchors with the best scores are decoded. Those are all that the detector
    itself would look at: of any 1,000 pairs of an anchor and a class that score best, each has its anchor among them.

    Args:
        detector: is not changed.
    """

    mean: Tensor
    scale: Tensor
    anchors: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.network = plain(detector.network)
        self.side = detector.chip_size
        self.margin = -self.side % MULTIPLE
        padded = self.side + self.margin, self.side + self.margin
        self.level_sizes = self.network.level_sizes(padded)
        mean, std = (
            torch.tensor(values, dtype=torch.float64) for values in (detector.stretch.mean, detector.stretch.std)
        )
        self.register_buffer("mean", (mean / BYTE).float()[:, None, None])
        self.register_buffer("scale", (BYTE / std).float()[:, None, None])
        self.register_buffer("anchors", self.network.anchors(padded).clone())

    @property
    def groups(self) -> list[int]:
        """Number of candidates of each level, finest first; they sum to N."""
        return [min(_MAX_PER_LEVEL, size) for size in self.level_sizes]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Corners (B, N, 4) in pixels and scores (B, N, K) of the best candidates; below 0 for what lies outside.

        No threshold lets such a score pass, and yet it tells which candidates are a level's best.

        Args:
            pixels: (B, C, S, S), divided by 255; what is not finite counts as the mean.
        """
        boxes, scores = self.candidates(pixels)
        real = (boxes[..., 2:] > boxes[..., :2]).all(dim=2, keepdim=True)
        return boxes, torch.where(real, scores, -scores)

    def candidates(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward` gives them, but with every score as it is: level by level, the best first."""
        known = pixels.abs() <= torch.finfo(torch.float32).max  # False for NaN too
        pictures = (torch.where(known, pixels, self.mean) - self.mean) * self.scale
        logits, deltas = self.network(nn.functional.pad(pictures, (0, self.margin, 0, self.margin)))
        scores = logits.sigmoid()
        places = self._best(scores)
        boxes = decode(self.anchors[places], _picked(deltas, places)).clamp(0, self.side)
        return boxes, _picked(scores, places)

    def _best(self, scores: Tensor) -> Tensor:
        """Places (B, N) of the best anchors of each level among all A."""
        places, first = [], 0
        for level, size in zip(torch.split(scores.amax(dim=2), self.level_sizes, dim=1), self.groups, strict=True):
            places.append(level.topk(size, dim=1).indices + first)
            first += level.shape[1]
        return torch.cat(places, dim=1)


def _picked(values: Tensor, places: Tensor) -> Tensor:
    """The rows (B, N, n) of (B, A, n) at places (B, N)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))


def plain(network: Network) -> Network:
    """A copy of the network as any program takes it: on the CPU, float32, in evaluation mode, norms of heads folded.

    Weights that are channels last, as the detector has them, are views, which archives do not know.
    """
    copied = copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    for head in (copied.class_head, copied.box_head):
        head.fold_norms()
    return copied.eval()


def traced(module: nn.Module, detector: Detector) -> torch.export.ExportedProgram:
    """A module that takes the detector's chips as a graph for any number of them."""
    example = torch.zeros(_EXAMPLE, len(detector.bands), detector.chip_size, detector.chip_size)
    return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("B", min=1)},))


def clouds(detector: Detector, n_pictures: int) -> Tensor:
    """Standardised pixels (B, C, S, S) of soft blotches, the same for the same B.

    Grain alone is like no picture: deep networks answer it with logits in the hundreds, and there rounding decides.
    """
    side = detector.chip_size
    shape = n_pictures, len(detector.bands), side // _BLOTCH + 2, side // _BLOTCH + 2
    blotches = torch.randn(*shape, generator=torch.Generator().manual_seed(n_pictures))
    return nn.functional.interpolate(blotches, size=(side, side), mode="bilinear", align_corners=False)


def difference(got: Iterable[Tensor], due: Iterable[Tensor]) -> float:
    """By how much the tensors of two answers differ at most; NaN where something is no number."""
    return float(torch.stack([(mine - other).abs().max() for mine, other in zip(got, due, strict=True)]).max())


def refuse_difference(off: float, allowed: float, what: str) -> None:
    """Nothing, when what a file gives is near enough to what the network gives.

    Args:
        off: by how much they differ at most; NaN where something is no number.
        allowed: by how much they may.
        what: differs, as the start of a sentence.

    Raises:
        OutputError: if they differ by more.
    """
    if not off <= allowed:
        raise OutputError(
            f"{what} differs from the network by {off:.1g}, where {allowed:g} is allowed; "
            "export it with another version of PyTorch"
        )
