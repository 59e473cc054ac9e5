"""`Boxes`: rectangles in pixels with class indices, scores and, for oriented boxes, angles.

Shapes: N boxes. A box is (x1, y1, x2, y2), x to the right, y down, (0, 0) the outer corner of the first pixel; its
width is x2 - x1. Other layouts enter and leave through `from_xywh` and `to_xywh`.

An oriented box is the rectangle (x1, y1, x2, y2), its longer side along x, turned about its centre by an angle in
[-pi/2, pi/2) from +x towards +y. Every turned rectangle has exactly one such form, but for squares, which
have two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int

from geodetect.errors import ArgumentError
from geodetect.facts import html_rows

_SHOWN = 10  # boxes in a notebook
_NO_NUMBERS = (TypeError, ValueError, OverflowError, RuntimeError)  # the last: a tensor of torch that has gradients

if TYPE_CHECKING:
    _Array: TypeAlias = np.ndarray
else:
    _Array = Any  # also lists, and wrong input: checked here, not by the run-time check of types


@dataclass(frozen=True, eq=False)
class Boxes:
    """N boxes with their class indices and, for detections, scores.

    Args:
        xyxy: corners in pixels of one frame (a scene or a chip), float64, (N, 4); of an oriented box before the
            turn about its centre.
        labels: class indices from 0, (N,).
        scores: 0 to 1, (N,); None for true boxes.
        angles: of oriented boxes, radians from +x towards +y (down), (N,); None for upright boxes. Any
            angle and any longer side is accepted and brought into the form described above.
        ignored: of true boxes, whether scores leave out the object and a detection of it, (N,); None for no box.

    Raises:
        ArgumentError: if the lengths disagree, the corners are not (N, 4), or a value is not a number.
    """

    xyxy: _Array
    labels: _Array
    scores: _Array | None = None
    angles: _Array | None = None
    ignored: _Array | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "xyxy", as_corners(self.xyxy))
        try:
            labels = np.asarray(self.labels).reshape(-1)
            if labels.dtype.kind == "f" and not (whole := np.isfinite(labels) & (np.rint(labels) == labels)).all():
                raise ValueError(f"{labels[~whole][0]} is not a whole number")
            object.__setattr__(self, "labels", np.asarray(labels, dtype=np.int64))
            for name in ("scores", "angles"):
                values = getattr(self, name)
                if values is not None:
                    object.__setattr__(self, name, np.asarray(values, dtype=np.float64).reshape(-1))
            if self.ignored is not None:
                object.__setattr__(self, "ignored", np.asarray(self.ignored, dtype=bool).reshape(-1))
        except _NO_NUMBERS as error:
            raise ArgumentError(
                f"labels must be class indices, scores and angles numbers; got something else: {error}"
            ) from error
        lengths = {name: len(values) for name, values in vars(self).items() if values is not None}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{n} {'boxes' if name == 'xyxy' else name}" for name, n in lengths.items())
            raise ArgumentError(f"every box needs one label, one score and one angle; got {counts}")
        if self.angles is not None:
            self._normalize()

    def _normalize(self) -> None:
        """Turn boxes whose longer side lies along y by a right angle; bring angles into [-pi/2, pi/2)."""
        assert self.angles is not None
        width, height = self.sizes.T
        # Sides that differ by rounding alone are equal: moving a square does not turn it.
        tall = height - width > 4 * np.spacing(np.abs(self.xyxy).max(axis=1, initial=0))
        angles = self.angles
        if tall.any():
            centres, half = self.centres[tall], self.sizes[tall][:, ::-1] / 2
            xyxy = self.xyxy.copy()
            xyxy[tall] = np.concatenate([centres - half, centres + half], axis=1)
            object.__setattr__(self, "xyxy", xyxy)
            angles = angles + np.where(tall, np.pi / 2, 0.0)
        if ((angles < -np.pi / 2) | (angles >= np.pi / 2)).any():
            with np.errstate(invalid="ignore"):  # infinite angles become NaN
                angles = (angles + np.pi / 2) % np.pi - np.pi / 2
            angles[angles >= np.pi / 2] = -np.pi / 2  # the remainder may be rounded up to pi
        object.__setattr__(self, "angles", angles)

    @classmethod
    def empty(cls, *, scored: bool = False, oriented: bool = False) -> Boxes:
        """Return no boxes; with scores, as of detections, or with angles if asked for."""
        return cls(
            np.zeros((0, 4)), np.zeros(0, int), np.zeros(0) if scored else None, np.zeros(0) if oriented else None
        )

    @classmethod
    def concat(cls, parts: Iterable[Boxes], *, scored: bool = False) -> Boxes:
        """Return all boxes of `parts` in order, oriented if any part is.

        Args:
            parts: collections in one frame; the result has scores if all of them have.
            scored: whether the result has scores when there are no parts.
        """
        parts = list(parts)
        if not parts:
            return cls.empty(scored=scored)
        scores = [part.scores for part in parts if part.scores is not None]
        oriented = any(part.angles is not None for part in parts)
        return cls(
            np.concatenate([part.xyxy for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate(scores) if len(scores) == len(parts) else None,
            np.concatenate([np.zeros(len(p)) if p.angles is None else p.angles for p in parts]) if oriented else None,
            None if all(p.ignored is None for p in parts) else ~np.concatenate([p.counted for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, indices: Any) -> Boxes:
        """Return the boxes that a slice, a mask or an index array selects; never a single row."""
        xyxy, labels = self.xyxy[indices], self.labels[indices]
        others = {"scores": self.scores, "angles": self.angles, "ignored": self.ignored}
        chosen: dict[str, Any] = {name: None if all_ is None else all_[indices] for name, all_ in others.items()}
        if xyxy.ndim != 2:  # noqa: PLR2004
            return Boxes(xyxy, labels, **chosen)
        selected = object.__new__(Boxes)  # there is nothing to check
        vars(selected).update(xyxy=xyxy, labels=labels, **chosen)
        return selected

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{n:,} of class {k}" for k, n in zip(*np.unique(self.labels, return_counts=True), strict=True)
        )
        scores = ""
        if self.scores is not None and len(self):
            scores = f"; scores {self.scores.min():.3f} to {self.scores.max():.3f}"
        kind = "Oriented boxes" if self.oriented else "Boxes"
        return f"{kind}({len(self):,}{': ' if counts else ''}{counts}{scores})"

    def _repr_html_(self) -> str:
        some = self[:_SHOWN]
        columns = {"score": some.scores, "angle": some.angles}
        more = {name: values for name, values in columns.items() if values is not None}
        rows = zip(
            *some.xyxy.T.tolist(), some.labels.tolist(), *(values.tolist() for values in more.values()), strict=True
        )
        title = f"{len(self):,} boxes{f', the first {_SHOWN}' if len(self) > _SHOWN else ''}"
        return html_rows(title, ["x1", "y1", "x2", "y2", "label", *more], [list(row) for row in rows])

    @property
    def oriented(self) -> bool:
        """Whether the boxes have angles."""
        return self.angles is not None

    @property
    def counted(self) -> Bool[np.ndarray, "N"]:
        """Which boxes count in scores: those that are not ignored."""
        return np.ones(len(self), bool) if self.ignored is None else ~self.ignored

    @property
    def sizes(self) -> Float[np.ndarray, "N 2"]:
        """Width and height in pixels, the longer side first if oriented; negative where corners are swapped."""
        return np.asarray(self.xyxy[:, 2:] - self.xyxy[:, :2])

    @property
    def centres(self) -> Float[np.ndarray, "N 2"]:
        """Centre (x, y) of each box in pixels."""
        return np.asarray((self.xyxy[:, 2:] + self.xyxy[:, :2]) / 2)

    @property
    def corners(self) -> Float[np.ndarray, "N 4 2"]:
        """The four corners (x, y) of each box, from (x1, y1) along the box's own x.

        Those of an oriented box are turned by its angle.
        """
        corners: np.ndarray = self.xyxy[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
        return corners if self.angles is None else turn(corners, self.centres, self.angles)

    @cached_property
    def bounds(self) -> Float[np.ndarray, "N 4"]:
        """Smallest upright rectangle around each box, (x1, y1, x2, y2)."""
        if self.angles is None:
            return self.xyxy
        corners = self.corners
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)

    def shift(self, dx: float | _Array, dy: float | _Array) -> Boxes:
        """Return the boxes in a frame whose origin lies at (-dx, -dy) of this one, numbers or one (N,) for each box."""
        return replace(self, xyxy=self.xyxy + np.array([dx, dy, dx, dy], float).T)

    def clip(self, width: float | _Array, height: float | _Array) -> Boxes:
        """Return the parts inside (0, 0, width, height); boxes outside become empty ones on its edge.

        Width and height are numbers or one (N,) for each box.

        Oriented boxes are returned as they are: the part of a turned rectangle inside an upright one is no rectangle.
        """
        if self.oriented:
            return self
        limit = np.array([width, height, width, height], float).T
        return replace(self, xyxy=np.clip(self.xyxy, 0, limit))

    def are_inside(self, x1: float, y1: float, x2: float, y2: float) -> Bool[np.ndarray, "N"]:
        """Return which boxes have an area, and their centre in a rectangle or on its edge.

        What `clip` does for upright boxes, this does for oriented ones: it decides which of them an image shows.
        """
        centred = (self.centres >= (x1, y1)) & (self.centres <= (x2, y2))
        return np.asarray((centred & (self.sizes > 0)).all(axis=1))

    def rank(self) -> Int[np.ndarray, "N"]:
        """Return indices by descending score; ties are ordered by y1, x1, y2, x2, label, angle, never by position.

        Raises:
            ArgumentError: if the boxes have no scores.
        """
        if self.scores is None:
            raise ArgumentError("ranking boxes needs scores; these boxes have none")
        order: np.ndarray = np.argsort(-self.scores)
        equal = self.scores[order][1:] == self.scores[order][:-1]
        if equal.any():  # as most are in 16 bits; a single key settles nearly all of them
            run = np.cumsum(np.append(False, ~equal))
            by_y1 = np.argsort(self.xyxy[order, 1])
            order = order[by_y1[stable_order(run[by_y1])]]
            equal &= self.xyxy[order, 1][1:] == self.xyxy[order, 1][:-1]
            tied = np.flatnonzero(np.append(False, equal) | np.append(equal, False))
            x1, y1, x2, y2 = self.xyxy[order[tied]].T
            rest = [self.labels] if self.angles is None else [self.angles, self.labels]
            keys = order[tied], *(key[order[tied]] for key in rest), x2, y2, x1, y1, run[tied]
            order[tied] = order[tied][np.lexsort(keys)]
        return order


def stable_order(numbers: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    """Return indices by ascending number, equal ones by their position; numbers from 0, fastest below 65,536."""
    return np.argsort(numbers.astype(np.min_scalar_type(numbers.max(initial=0))), kind="stable")


def oriented_envelope(polygons: np.ndarray, labels: _Array) -> Boxes:
    """Return the smallest rotated rectangle around each polygon, as oriented boxes without scores.

    Args:
        polygons: (N,) shapely geometries with an area, in pixels.
        labels: (N,) class indices.
    """
    rings = shapely.get_coordinates(shapely.oriented_envelope(polygons)).reshape(-1, 5, 2)
    along, across = rings[:, 1] - rings[:, 0], rings[:, 2] - rings[:, 1]
    half = np.stack([np.hypot(*along.T), np.hypot(*across.T)], axis=1) / 2
    centres = (rings[:, 0] + rings[:, 2]) / 2
    return Boxes(np.concatenate([centres - half, centres + half], axis=1), labels, angles=np.arctan2(*along.T[::-1]))


def turn(
    points: Float[np.ndarray, "N P 2"], centres: Float[np.ndarray, "N 2"], angles: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N P 2"]:
    """Return the points of each row turned about a centre, from +x towards +y."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = np.moveaxis(points - centres[:, None], -1, 0)
    return np.asarray(np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + centres[:, None])


def as_corners(xyxy: _Array) -> Float[np.ndarray, "N 4"]:
    """Return corners as float64; (0, 4) for an empty array of any shape.

    Raises:
        ArgumentError: if they are not numbers, or not four in each row.
    """
    try:
        corners = np.asarray(xyxy, dtype=np.float64)
    except _NO_NUMBERS as error:
        raise ArgumentError(f"boxes must be an array (N, 4) of x1, y1, x2, y2; got something else: {error}") from error
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:  # noqa: PLR2004
        raise ArgumentError(f"boxes must be an array (N, 4) of x1, y1, x2, y2; got shape {corners.shape}")
    return corners


def from_xywh(xywh: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Return the corners of boxes given as upper-left corner, width and height; `to_xywh` undoes it."""
    xywh = np.asarray(xywh, float).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def to_xywh(xyxy: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Return upper-left corner, width and height of boxes given by corners; `from_xywh` undoes it."""
    xyxy = np.asarray(xyxy, float).reshape(-1, 4)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def area(xyxy: Float[np.ndarray, "*N 4"]) -> Float[np.ndarray, "*N"]:
    """Return the area of each box in square pixels; 0 where corners are swapped."""
    return np.asarray(np.prod(np.maximum(xyxy[..., 2:] - xyxy[..., :2], 0), axis=-1))


def connected_components(n: int, i: Int[np.ndarray, "P"], j: Int[np.ndarray, "P"]) -> Int[np.ndarray, "N"]:
    """Number the groups that the pairs (i, j) link `n` items into, from 0 by their first members.

    Each item takes the lowest number among its partners, then that one's own, until none changes;
    the second step doubles the distance covered each time, so long chains take few rounds.
    """
    group = np.arange(n)
    while True:
        lowest = group.copy()
        np.minimum.at(lowest, i, group[j])
        np.minimum.at(lowest, j, group[i])
        lowest = lowest[lowest]
        if np.array_equal(lowest, group):
            return np.asarray(np.unique(group, return_inverse=True)[1])
        group = lowest
