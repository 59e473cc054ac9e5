"""The network as a program, and the comparison with it, for all formats.

Shapes: B pictures, C bands, S the side of a chip, A anchors, K classes, N candidates of a picture.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from geodetect.detector import Detector
from geodetect.errors import OutputError
from geodetect.metadata import topk_candidates
from geodetect.network import oriented
from geodetect.network.coding import decode
from geodetect.network.inference import MULTIPLE
from geodetect.network.retinanet import Network

BYTE = 255.0  # other programs divide pixels by it
BATCHES = (1, 3)  # sizes to test: a program with its example's B as a constant fails on one of them
_BLOTCH = 16  # pixels
_EXAMPLE = 2  # pictures; with one, PyTorch makes B a constant


class Detections(nn.Module):
    """The network from pixels to boxes, with standardisation, decoding and clipping, but without suppression.

    Of each level the anchors with the best scores are decoded, `topk_candidates` of them. They include the anchors of
    as many best pairs of anchor and class, which are all that the detector itself considers.

    Args:
        detector: is not changed.
    """

    mean: Tensor
    scale: Tensor
    anchors: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.network = copy_plain(detector.network)
        self.side = detector.chip_size
        self.margin = -self.side % MULTIPLE
        padded = self.side + self.margin, self.side + self.margin
        self.level_sizes = self.network.level_sizes(padded)
        mean, std = (
            torch.tensor(values, dtype=torch.float64)
            for values in (detector.normalization.mean, detector.normalization.std)
        )
        self.register_buffer("mean", (mean / BYTE).float()[:, None, None])
        self.register_buffer("scale", (BYTE / std).float()[:, None, None])
        self.register_buffer("anchors", self.network.anchors(padded).clone())

    @property
    def groups(self) -> list[int]:
        """Number of candidates of each level, finest first; they sum to N."""
        return [min(topk_candidates((self.side, self.side)), size) for size in self.level_sizes]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (B, N, 4) or, with angles, (B, N, 5), in pixels and scores (B, N, K) of the best candidates.

        Upright boxes are corners; oriented ones are as in `network.oriented`. Scores of boxes outside the chip are
        negated: no threshold lets them pass, but their size still tells which candidates are a level's best.

        Args:
            pixels: (B, C, S, S), divided by 255; NaN and infinity count as the mean.
        """
        boxes, scores = self.candidates(pixels)
        if boxes.shape[2] == oriented.N_ORIENTED:
            real = oriented.are_inside(boxes, (self.side, self.side))[..., None]
        else:
            real = (boxes[..., 2:] > boxes[..., :2]).all(dim=2, keepdim=True)
        return boxes, torch.where(real, scores, -scores)

    def candidates(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores as `forward` does, but none negated; level by level, best first."""
        known = pixels.abs() <= torch.finfo(torch.float32).max  # False for NaN too
        pictures = (torch.where(known, pixels, self.mean) - self.mean) * self.scale
        logits, deltas = self.network(nn.functional.pad(pictures, (0, self.margin, 0, self.margin)))
        scores = logits.sigmoid()
        places = self._find_best(scores)
        anchors, moves = self.anchors[places], _take_rows(deltas, places)
        if self.network.architecture.oriented:
            return oriented.decode(anchors, moves), _take_rows(scores, places)
        return decode(anchors, moves).clamp(0, self.side), _take_rows(scores, places)

    def _find_best(self, scores: Tensor) -> Tensor:
        """Return indices (B, N) of the best anchors of each level."""
        places, first = [], 0
        for level, size in zip(torch.split(scores.amax(dim=2), self.level_sizes, dim=1), self.groups, strict=True):
            places.append(level.topk(size, dim=1).indices + first)
            first += level.shape[1]
        return torch.cat(places, dim=1)


def _take_rows(values: Tensor, places: Tensor) -> Tensor:
    """Return the rows (B, N, n) of values (B, A, n) at places (B, N)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))


def copy_plain(network: Network) -> Network:
    """Return a copy of the network for export: on the CPU, float32, in evaluation mode, norms of heads folded.

    The detector's weights are channels last, which archives cannot hold; the copy's are contiguous.
    """
    copied = copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    for head in (copied.class_head, copied.box_head):
        head.fold_norms()
    return copied.eval()


def trace(module: nn.Module, detector: Detector) -> torch.export.ExportedProgram:
    """Return a module as a graph that takes any number of the detector's chips."""
    example = torch.zeros(_EXAMPLE, len(detector.bands), detector.chip_size, detector.chip_size)
    return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("B", min=1)},))


def make_noise(detector: Detector, n_pictures: int) -> Tensor:
    """Return standardised pixels (B, C, S, S) of smooth noise, the same for the same B.

    White noise would not do: deep networks give it logits in the hundreds, where rounding dominates.
    """
    side = detector.chip_size
    shape = n_pictures, len(detector.bands), side // _BLOTCH + 2, side // _BLOTCH + 2
    blotches = torch.randn(*shape, generator=torch.Generator().manual_seed(n_pictures))
    return nn.functional.interpolate(blotches, size=(side, side), mode="bilinear", align_corners=False)


def max_difference(got: Iterable[Tensor], due: Iterable[Tensor]) -> float:
    """Return the largest absolute difference of two sequences of tensors; NaN if one holds NaN."""
    return float(torch.stack([(mine - other).abs().max() for mine, other in zip(got, due, strict=True)]).max())


def check_difference(off: float, allowed: float, what: str) -> None:
    """Raise if the difference between a file and the network is too large.

    Args:
        off: the difference; NaN is too large.
        allowed: the largest permitted one.
        what: subject of the message.

    Raises:
        OutputError: if `off` exceeds `allowed`.
    """
    if not off <= allowed:
        raise OutputError(
            f"{what} differs from the network by {off:.1g}, where {allowed:g} is allowed; "
            "export it with another version of PyTorch"
        )
