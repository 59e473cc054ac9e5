"""Changes of a batch that leave a nadir picture true: symmetries, zoom, light.

Pixels and boxes move together; every function gives new tensors. Padding boxes
(label -1) pass through; a box that is lost becomes padding.

Shapes: B batch, C channels, H W pixels, M padded boxes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from geodetect.chips.cut import MIN_SIDE

_ZOOM = (0.8, 1.25)  # scale jitter; wider hides how large an object is, which is half of what it is
_MIN_VISIBLE = 0.3  # of a box's area after a zoom has cut it; the default of `prepare_data`
_GAIN, _BIAS, _BAND_GAIN = 0.2, 0.2, 0.05  # in standard deviations of a band


def symmetry(
    images: Float[Tensor, "B C H W"], boxes: Float[Tensor, "B M 4"], number: int
) -> tuple[Float[Tensor, "B C H2 W2"], Float[Tensor, "B M 4"]]:
    """The picture under one of the eight symmetries of the square, its boxes with it.

    Args:
        images: pictures.
        boxes: corners in pixels.
        number: 0 to 7; bit 0 mirrors left and right, bit 1 top and bottom, bit 2 swaps x and y last.
    """
    height, width = images.shape[-2:]
    x1, y1, x2, y2 = boxes.unbind(-1)
    if number & 1:
        images, (x1, x2) = images.flip(-1), (width - x2, width - x1)
    if number & 2:
        images, (y1, y2) = images.flip(-2), (height - y2, height - y1)
    if number & 4:
        images, (x1, y1, x2, y2) = images.transpose(-1, -2), (y1, x1, y2, x2)
    return images, torch.stack([x1, y1, x2, y2], dim=-1)


def random_symmetry(
    images: Float[Tensor, "B C H W"], boxes: Float[Tensor, "B M 4"], generator: torch.Generator
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B M 4"]]:
    """Each picture under a symmetry of its own; those that swap x and y only where pictures are square."""
    square = images.shape[-1] == images.shape[-2]
    numbers = torch.randint(8 if square else 4, (len(images),), generator=generator)
    images, boxes = images.clone(), boxes.clone()
    for number in set(numbers.tolist()):
        mine = (numbers == number).to(images.device)
        images[mine], boxes[mine] = symmetry(images[mine], boxes[mine], number)
    return images, boxes


def random_zoom(
    images: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "B M 4"],
    labels: Int[Tensor, "B M"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B M 4"], Int[Tensor, "B M"]]:
    """A random crop of each picture, enlarged to its size, or the picture shrunk and put somewhere at random.

    What comes in from outside is 0, as nodata is. Boxes of which too little is left become padding.
    """
    low, high = _ZOOM
    zoom = low * (high / low) ** torch.rand(len(images), generator=generator)
    corner = torch.rand(len(images), 2, generator=generator) * (1 - 1 / zoom)[:, None]
    zoom, corner = zoom.to(images.device), corner.to(images.device)
    size = torch.tensor(images.shape[:1:-1], device=images.device)  # width, height
    moved = (boxes - (corner * size).repeat(1, 2)[:, None]) * zoom[:, None, None]
    kept, labels = _in_sight(moved, labels, size.repeat(2))
    return _view(images, zoom, corner), kept, labels


def _view(images: Tensor, zoom: Tensor, corner: Tensor) -> Tensor:
    """The part of each picture whose upper-left is at `corner` (shares of its sides), enlarged `zoom` times."""
    centre = 2 * corner + 1 / zoom[:, None] - 1  # affine_grid counts from -1 to 1
    theta = torch.cat([torch.diag_embed((1 / zoom)[:, None].expand(-1, 2)), centre[..., None]], dim=-1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _in_sight(moved: Tensor, labels: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    kept = torch.minimum(moved.clamp(min=0), limit)
    sides, whole = kept[..., 2:] - kept[..., :2], moved[..., 2:] - moved[..., :2]
    seen = (sides.amin(-1) >= MIN_SIDE) & (sides.prod(-1) >= _MIN_VISIBLE * whole.prod(-1))
    return kept, torch.where(seen, labels, -1)


def random_light(images: Float[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "B C H W"]:
    """Standardised pictures under other light: contrast and brightness for all bands, a little for each."""
    n_pictures, n_bands = images.shape[:2]
    draw = torch.rand(3, n_pictures, n_bands, 1, 1, generator=generator).to(images.device) * 2 - 1
    gain = 1 + _GAIN * draw[0, :, :1] + _BAND_GAIN * draw[2]
    return images * gain + _BIAS * draw[1, :, :1]
