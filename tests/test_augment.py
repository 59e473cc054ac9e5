"""Changes of a batch: boxes stay on what they were drawn round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geodetect.boxes import Boxes
from geodetect.chips.augment import Batch, apply_symmetry, random_light, random_symmetry, random_zoom
from geodetect.chips.chip import Chip
from geodetect.chips.loaders import BatchTransform, collate
from geodetect.grid import Grid
from geodetect.normalization import Normalization

SIZE = 32


def _batch(image: torch.Tensor, box: list[float], n: int = 1) -> Batch:
    """Several times one image with one box."""
    boxes, labels = torch.tensor([[box]]).repeat(n, 1, 1), torch.zeros(n, 1, dtype=torch.long)
    return Batch(image.repeat(n, 1, 1, 1), boxes, labels)


def _painted(n: int = 1) -> Batch:
    """Dark images with one bright rectangle off their centre, and its box."""
    image = torch.zeros(1, 1, SIZE, SIZE)
    image[..., 4:10, 6:20] = 1
    return _batch(image, [6.0, 4.0, 20.0, 10.0], n)


def _bounds(image: torch.Tensor, level: float = 0.5) -> list[float]:
    rows, columns = np.nonzero(image[0].numpy() > level)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("number", range(8))
def test_a_box_follows_its_rectangle_under_every_symmetry(number: int) -> None:
    image, box, _ = apply_symmetry(_painted(), number)
    assert box[0, 0].tolist() == _bounds(image[0])


def test_the_eight_symmetries_are_a_group() -> None:
    batch = _batch(torch.arange(9.0).view(1, 1, 3, 3), [0.0, 0.0, 1.0, 2.0])

    def told(batch: Batch) -> tuple[float, ...]:
        return tuple(batch.images.flatten().tolist() + batch.boxes.flatten().tolist())

    every = {told(apply_symmetry(batch, number)) for number in range(8)}
    assert len(every) == len({each[:9] for each in every}) == 8
    assert told(batch) in every
    for first in range(8):
        # Of the pictures and of their boxes together: two in a row are one of the eight, and each can be undone.
        assert {told(apply_symmetry(apply_symmetry(batch, first), second)) for second in range(8)} == every


def test_each_picture_of_a_batch_is_moved_with_its_own_boxes() -> None:
    images, boxes, _ = random_symmetry(_painted(32), torch.Generator().manual_seed(0))
    moved = [tuple(b[0].tolist()) for b in boxes]
    assert len(set(moved)) == 8
    assert all(list(b) == _bounds(picture) for b, picture in zip(moved, images, strict=True))


def test_a_box_follows_its_rectangle_through_a_zoom() -> None:
    images, boxes, labels = random_zoom(_painted(64), torch.Generator().manual_seed(1))
    seen = labels[:, 0] == 0
    assert seen.any()
    for picture, found in zip(images[seen], boxes[seen, 0], strict=True):
        assert found.tolist() == pytest.approx(_bounds(picture), abs=1.0)


def test_a_box_that_leaves_the_picture_becomes_padding() -> None:
    batch = _batch(torch.zeros(1, 1, SIZE, SIZE), [0.0, 0.0, 3.0, 3.0], 64)
    _, moved, labels = random_zoom(batch, torch.Generator().manual_seed(0))
    sides = (moved[..., 2:] - moved[..., :2]).amin(-1)
    assert (labels == -1).any()
    assert (sides[labels >= 0] >= 2).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_crop_shows_part_of_the_picture_at_a_larger_scale(seed: int) -> None:
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    batch = _batch(torch.stack([x, y])[None], [8.0, 8.0, 24.0, 24.0], 16)  # every pixel holds its own place
    crops, moved, _ = random_zoom(batch, torch.Generator().manual_seed(seed))
    inside = crops[:, :, 1:-1, 1:-1]
    steps = inside[:, 0].diff(dim=-1).flatten(1).median(dim=1).values  # of the old place, per new pixel
    large = steps < 1
    assert large.any()
    assert (~large).any()
    corners = inside[large].amin(dim=(2, 3))
    assert len(torch.unique(corners.round(decimals=2), dim=0)) > 1  # cut out at places of their own
    sides = (moved[..., 2:] - moved[..., :2])[large, 0]
    torch.testing.assert_close(sides.amax(dim=1), 16 / steps[large], rtol=0.02, atol=0.1)


def test_bands_are_lit_a_little_differently() -> None:
    light = random_light(torch.ones(64, 3, 1, 1), torch.Generator().manual_seed(0)).flatten(1)
    apart = (light - light.mean(dim=1, keepdim=True)).abs().amax(dim=1)
    assert apart.max() > 0.01
    assert apart.max() < light.std(dim=0).mean()  # less than pictures differ


def test_light_leaves_the_mean_of_many_pictures() -> None:
    images = torch.randn(400, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = random_light(images, torch.Generator().manual_seed(0))
    assert not torch.equal(changed, images)
    assert changed.mean().item() == pytest.approx(images.mean().item(), abs=0.03)
    assert changed.std().item() == pytest.approx(images.std().item(), abs=0.05)


def _chip(n_boxes: int, side: int = 8) -> Chip:
    xyxy = np.tile([1.0, 1.0, 5.0, 6.0], (n_boxes, 1))
    return Chip(np.full((3, side, side), 200, np.uint16), Boxes(xyxy, np.arange(n_boxes)), Grid((side, side)))


def test_a_batch_is_padded_to_one_size() -> None:
    images, boxes, labels = collate([_chip(2), _chip(0), _chip(1, side=6)], 8)
    assert images.shape == (3, 3, 8, 8)
    assert boxes.shape == (3, 2, 4)
    assert labels.tolist() == [[0, 1], [-1, -1], [0, -1]]
    assert images[2, 0, 5, 5] == 200
    assert images[2, 0, 6:].sum() == images[2, 0, :, 6:].sum() == 0


def test_a_batch_without_any_box() -> None:
    images, boxes, labels = collate([_chip(0)], 8)
    assert boxes.shape == (1, 0, 4)
    transform = BatchTransform(Normalization((200.0,) * 3, (50.0,) * 3), transforms=True, seed=0)
    images, boxes, labels = transform((images, boxes, labels))
    assert images.shape == (1, 3, 8, 8)
    assert labels.shape == (1, 0)


def test_the_same_seed_gives_the_same_batches() -> None:
    normalization, batch = Normalization((200.0,) * 3, (50.0,) * 3), collate([_chip(2), _chip(1)], 8)
    first, second = (BatchTransform(normalization, transforms=True, seed=3)(batch) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
