"""Random changes of a batch that keep an aerial image realistic: symmetries, zoom, light.

Images and boxes move together; every function returns new tensors. Padding boxes
(label -1) remain; a box that leaves its image becomes padding. Images lie on the device that
trains; boxes and labels, which are few, are changed in the processor's memory.

Shapes: B batch, C channels, H W pixels, M padded boxes of D numbers: the corners x1, y1, x2, y2, and of oriented boxes
the angle in radians, as in `Boxes`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import shapely
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from geodetect.boxes import Boxes
from geodetect.chips.cut import MIN_SIDE, Cutting, cut
from geodetect.grid import Window
from geodetect.network.inference import send
from geodetect.network.oriented import N_ORIENTED

_ZOOM = (0.8, 1.25)  # scale jitter; more would hide the size of an object, which tells much of its class
_MIN_VISIBLE = 0.3  # of a box's area after a zoom has cut it; the default of `prepare_data`
_CUTTING = Cutting(min_visible=_MIN_VISIBLE, oriented=True)
_GAIN, _BIAS, _BAND_GAIN = 0.2, 0.2, 0.05  # in standard deviations of a band


class Batch(NamedTuple):
    """Images with their boxes.

    Args:
        images: float32, on any device.
        boxes: corners in pixels, and angles of oriented boxes; in the processor's memory.
        labels: class indices; -1 for padding; in the processor's memory.
    """

    images: Float[Tensor, "B C H W"]
    boxes: Float[Tensor, "B M D"]
    labels: Int[Tensor, "B M"]


def apply_symmetry(batch: Batch, number: int) -> Batch:
    """Apply one of the eight symmetries of the square.

    Args:
        batch: images with boxes.
        number: 0 to 7; bit 0 mirrors left and right, bit 1 top and bottom, bit 2 swaps x and y last.
    """
    images = batch.images
    height, width = images.shape[-2:]
    x1, y1, x2, y2, *angles = batch.boxes.unbind(-1)
    if number & 1:
        images, (x1, x2) = images.flip(-1), (width - x2, width - x1)
    if number & 2:
        images, (y1, y2) = images.flip(-2), (height - y2, height - y1)
    if number & 4:
        images = images.transpose(-1, -2)
        if angles:  # the longer side stays along x; the angle tells where it lies
            half = torch.stack([x2 - x1, y2 - y1]) / 2
            centre = torch.stack([y1 + y2, x1 + x2]) / 2
            (x1, y1), (x2, y2) = centre - half, centre + half
        else:
            x1, y1, x2, y2 = y1, x1, y2, x2
    turned = [_turn(angle, number) for angle in angles]
    return Batch(images, torch.stack([x1, y1, x2, y2, *turned], dim=-1), batch.labels)


def _turn(angle: Tensor, number: int) -> Tensor:
    """Return angles after a symmetry, in [-pi/2, pi/2)."""
    if number & 1:
        angle = -angle
    if number & 2:
        angle = -angle
    if number & 4:
        angle = math.pi / 2 - angle
    angle = (angle + math.pi / 2) % math.pi - math.pi / 2
    return torch.where(angle >= math.pi / 2, -math.pi / 2, angle)


def random_symmetry(batch: Batch, generator: torch.Generator) -> Batch:
    """Apply a random symmetry to each image; x and y are only swapped in square images."""
    images, boxes = batch.images.clone(), batch.boxes.clone()
    square = images.shape[-1] == images.shape[-2]
    numbers = torch.randint(8 if square else 4, (len(images),), generator=generator)
    for number in set(numbers.tolist()):
        mine = torch.nonzero(numbers == number)[:, 0]
        there = send(mine, images.device)
        images[there], boxes[mine], _ = apply_symmetry(Batch(images[there], boxes[mine], batch.labels[mine]), number)
    return Batch(images, boxes, batch.labels)


def random_zoom(batch: Batch, generator: torch.Generator) -> Batch:
    """Enlarge a random crop of each image to its size, or shrink the image and put it at a random place.

    Pixels from outside are 0, as nodata is. Boxes of which too little is left become padding.
    """
    images, boxes, labels = batch
    low, high = _ZOOM
    zoom = low * (high / low) ** torch.rand(len(images), generator=generator)
    corner = torch.rand(len(images), 2, generator=generator) * (1 - 1 / zoom)[:, None]  # share of the sides
    size = torch.tensor(images.shape[:1:-1])  # width, height
    moved = (boxes[..., :4] - (corner * size).repeat(1, 2)[:, None]) * zoom[:, None, None]
    if boxes.shape[-1] == N_ORIENTED:
        kept, visible = _cut_oriented(torch.cat([moved, boxes[..., 4:]], dim=-1), labels, images.shape)
    else:
        kept = torch.minimum(moved.clamp(min=0), size.repeat(2))
        sides, whole = kept[..., 2:] - kept[..., :2], moved[..., 2:] - moved[..., :2]
        visible = (sides.amin(-1) >= MIN_SIDE) & (sides.prod(-1) >= _MIN_VISIBLE * whole.prod(-1))
    centre = 2 * corner + 1 / zoom[:, None] - 1  # affine_grid counts from -1 to 1
    theta = torch.cat([torch.diag_embed((1 / zoom)[:, None].expand(-1, 2)), centre[..., None]], dim=-1)
    grid = F.affine_grid(send(theta, images.device), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    return Batch(images, kept, torch.where(visible, labels, -1))


def _cut_oriented(
    boxes: Float[Tensor, "B M 5"], labels: Int[Tensor, "B M"], shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """Return oriented boxes cut at the edges of images as those of chips are, and which are visible enough, (B, M)."""
    true = np.argwhere(labels.numpy() >= 0)
    rows = boxes.numpy()[*true.T].astype(np.float64)
    every = Boxes(rows[:, :4], np.arange(len(rows)), angles=rows[:, 4])
    height, width = shape[-2:]
    polygons = shapely.polygons(every.corners)
    across = (every.bounds[:, :2] < 0).any(axis=1) | (every.bounds[:, 2:] > (width, height)).any(axis=1)
    (parts,) = cut(polygons[across], np.flatnonzero(across), [Window(0, 0, width, height)], _CUTTING)
    seen = ~across & (every.sizes.min(axis=1, initial=np.inf) >= MIN_SIDE)
    seen[parts.labels] = True
    assert parts.angles is not None
    rows[parts.labels] = np.column_stack([parts.xyxy, parts.angles])
    boxes, visible = boxes.clone(), torch.zeros_like(labels, dtype=torch.bool)
    where = torch.from_numpy(true).unbind(1)
    boxes[where], visible[where] = torch.from_numpy(rows).to(boxes), torch.from_numpy(seen)
    return boxes, visible


def random_light(images: Float[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "B C H W"]:
    """Change contrast and brightness of standardised images: much in all bands alike, a little in each."""
    n_images, n_bands = images.shape[:2]
    draw = send(torch.rand(3, n_images, n_bands, 1, 1, generator=generator), images.device) * 2 - 1
    gain = 1 + _GAIN * draw[0, :, :1] + _BAND_GAIN * draw[2]
    return images * gain + _BIAS * draw[1, :, :1]
