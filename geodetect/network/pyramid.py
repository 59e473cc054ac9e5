"""The feature pyramid: P3 to P7 from a backbone's maps at strides 8, 16 and 32, with P2 from one at 4.

Shapes: B images, C channels, h w cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, relu
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from geodetect.metadata import Architecture


class Pyramid(nn.Module):
    """Maps of `width` channels at the backbone's strides, the last of which is 32, and at 64 and 128.

    P6 comes from P5, where the paper takes C5: torchvision's published weights were trained so.
    """

    def __init__(self, channels: Sequence[int], width: int = Architecture.width) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(channels), width, extra_blocks=_Coarse(width, width))

    def forward(self, maps: Sequence[Float[Tensor, "B _c _h _w"]]) -> list[Float[Tensor, "B _C _h _w"]]:
        """Return the levels up to P7, finest first."""
        return list(self.fpn({f"c{i}": x for i, x in enumerate(maps)}).values())


class _Coarse(LastLevelP6P7):  # type: ignore[misc]
    """P6 and P7 from P5, correct for chips of 64 px and less too."""

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Return the levels with P6 and P7 appended."""
        p6 = self.p6(_two_cells(p[-1]))
        return [*p, p6, self.p7(_two_cells(relu(p6)))], [*names, "p6", "p7"]


def _two_cells(level: Tensor) -> Tensor:
    """Return the map with a single row or column padded to two, which changes nothing for a padded convolution.

    On a processor the weights' gradient of a strided convolution over a single cell in bf16 is
    uninitialised memory (seen with torch 2.15 on avx512_bf16, not in float32).
    """
    return pad(level, (0, int(level.shape[3] == 1), 0, int(level.shape[2] == 1)))
