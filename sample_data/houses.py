"""Houses: gable, hip, L-shaped and flat roofs, each plane in its own light."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from shapely.geometry import LineString, Polygon, box

from canvas import Canvas, Colour, Frame, Sun
from things import chance, lit, pick, thrown, tinted

ROOFS: Sequence[Colour] = (
    (136, 134, 132), (112, 110, 110), (124, 106, 90), (146, 126, 106), (160, 108, 86),
    (104, 118, 136), (92, 96, 104), (178, 172, 162), (120, 136, 150),
)  # fmt: skip
ROOF_SHARES = (0.2, 0.15, 0.16, 0.13, 0.13, 0.08, 0.07, 0.05, 0.03)
PANEL: Colour = (36, 46, 76)

Plane = tuple[Polygon, tuple[float, float]]


@dataclass
class Part:
    """One body of a house: an outline, its roof planes and their ridges."""

    outline: Polygon
    planes: list[Plane]
    ridges: list[LineString] = field(default_factory=list)
    rise: float = 0.0


@dataclass
class House:
    """A house in its frame.

    Attributes:
        frame: Where the house stands.
        parts: Its bodies, painted in this order.
        colour: The colour of the roof.
        slope: The slope of the roof planes, in degrees; 0 for a flat roof.
        eaves: The height of the eaves in metres.
    """

    frame: Frame
    parts: list[Part]
    colour: Colour
    slope: float
    eaves: float

    def shade(self, canvas: Canvas, sun: Sun) -> None:
        """Cast the shadow of the house on the ground."""
        for part in self.parts:
            outline = self.frame.place(part.outline)
            shadow = thrown(outline, sun, self.eaves)
            for ridge in part.ridges:
                top = thrown(self.frame.place(ridge.buffer(0.1)), sun, self.eaves + part.rise)
                shadow = shadow.union(shadow.intersection(top)).union(top).convex_hull
            canvas.darken(shadow)

    def paint(self, canvas: Canvas, sun: Sun, rng: np.random.Generator) -> None:
        """Paint the roof."""
        for part in self.parts:
            self._paint_part(canvas, sun, part)
        if self.slope:
            self._paint_fittings(canvas, sun, rng)
        else:
            self._paint_boxes(canvas, sun, rng)

    def _paint_part(self, canvas: Canvas, sun: Sun, part: Part) -> None:
        """Paint the planes of one body, its eaves and its ridges."""
        for plane, downhill in part.planes:
            shape = self.frame.place(plane)
            brightness = sun.brightness(self.frame.turn(*downhill), self.slope)
            canvas.fill(shape, lit(self.colour, brightness), grain=0.045, mottle=0.035)
            found = canvas.mask(shape)
            if found is not None:
                canvas.roofs[found[0]] |= found[1]
        rim = self.frame.place(part.outline.difference(part.outline.buffer(-0.22, join_style="mitre")))
        canvas.fill(rim, lit(self.colour, 1.25 if not self.slope else 0.8), alpha=0.55)
        for ridge in part.ridges:
            canvas.fill(self.frame.place(ridge.buffer(0.14)), lit(self.colour, 1.18), alpha=0.7)

    def _paint_fittings(self, canvas: Canvas, sun: Sun, rng: np.random.Generator) -> None:
        """Paint solar panels on some roofs, and vents and a chimney."""
        plane, downhill = max(
            self.parts[0].planes,
            key=lambda plane: plane[0].area * sun.brightness(self.frame.turn(*plane[1]), self.slope),
        )
        if chance(rng, 0.2):
            self._paint_panels(canvas, plane, downhill, rng)
        for _ in range(int(rng.integers(1, 4))):
            x, y = (rng.normal(middle, 1.6) for middle in self.parts[0].outline.centroid.coords[0])
            vent = self.frame.place(box(x, y, x + 0.35, y + 0.35))
            _overlay(canvas, sun, vent, 0.5, tinted(rng, (196, 194, 190)))
        if chance(rng, 0.4):
            x, y = self.parts[0].outline.centroid.coords[0]
            x += rng.uniform(-4, 4)
            stack = self.frame.place(box(x, y + 0.4, x + 1.0, y + 1.2))
            _overlay(canvas, sun, stack, 1.6, tinted(rng, (142, 104, 88)))

    def _paint_panels(
        self, canvas: Canvas, plane: Polygon, downhill: tuple[float, float], rng: np.random.Generator
    ) -> None:
        """Paint rows of dark solar panels in the middle of a roof plane."""
        middle = plane.centroid
        across = abs(downhill[1]) > abs(downhill[0])
        columns, rows = int(rng.integers(3, 7)), int(rng.integers(1, 3))
        for column in range(columns):
            for row in range(rows):
                dx, dy = (column - columns / 2) * 1.12, (row - rows / 2) * 1.72
                panel = box(dx, dy, dx + 1.0, dy + 1.6) if across else box(dy, dx, dy + 1.6, dx + 1.0)
                placed = Frame(middle.x, middle.y, 0).place(panel)
                if plane.contains(placed):
                    canvas.fill(self.frame.place(placed.buffer(0.06)), (120, 126, 138))
                    canvas.fill(self.frame.place(placed), PANEL, grain=0.05)

    def _paint_boxes(self, canvas: Canvas, sun: Sun, rng: np.random.Generator) -> None:
        """Paint machines on a flat roof."""
        left, low, right, high = self.parts[0].outline.buffer(-2.2).bounds
        for _ in range(int(2 + self.parts[0].outline.area / 120)):
            x, y = rng.uniform(left, right), rng.uniform(low, high)
            unit = self.frame.place(box(x, y, x + rng.uniform(0.8, 2.0), y + rng.uniform(0.8, 1.6)))
            _overlay(canvas, sun, unit, 1.1, tinted(rng, (196, 198, 198)))


def _overlay(canvas: Canvas, sun: Sun, shape: Polygon, height: float, colour: Colour) -> None:
    """Paint a thing on a roof, with its shadow."""
    canvas.fill(thrown(shape, sun, height), (40, 42, 50), alpha=0.55)
    canvas.fill(shape, colour)


def gable(left: float, low: float, right: float, high: float, tan: float) -> Part:
    """Return a gable roof with its ridge along the longer axis."""
    x, y = (left + right) / 2, (low + high) / 2
    if right - left >= high - low:
        planes: list[Plane] = [(box(left, low, right, y), (0, -1)), (box(left, y, right, high), (0, 1))]
        ridge, span = LineString([(left, y), (right, y)]), high - low
    else:
        planes = [(box(left, low, x, high), (-1, 0)), (box(x, low, right, high), (1, 0))]
        ridge, span = LineString([(x, low), (x, high)]), right - left
    return Part(box(left, low, right, high), planes, [ridge], span / 2 * tan)


def hip(left: float, low: float, right: float, high: float, tan: float) -> Part:
    """Return a hip roof."""
    x, y, inset = (left + right) / 2, (low + high) / 2, min(right - left, high - low) / 2 - 0.01
    wide = right - left >= high - low
    one = (left + inset, y) if wide else (x, low + inset)
    two = (right - inset, y) if wide else (x, high - inset)
    corners = [(left, low), (right, low), (right, high), (left, high)]
    tops = [[one, two], [two], [two, one], [one]] if wide else [[one], [one, two], [two], [two, one]]
    falls: list[tuple[float, float]] = [(0, -1), (1, 0), (0, 1), (-1, 0)]
    planes: list[Plane] = []
    for side in range(4):
        start, end = corners[side], corners[(side + 1) % 4]
        planes.append((Polygon([start, end, *_ordered(tops[side], end)]), falls[side]))
    hips = [LineString([corner, min((one, two), key=lambda top: math.dist(top, corner))]) for corner in corners]
    return Part(box(left, low, right, high), planes, [LineString([one, two]), *hips], inset * tan)


def _ordered(tops: list[tuple[float, float]], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the ridge points, the one nearest to the end of the eaves first."""
    return sorted(tops, key=lambda top: math.dist(top, end))


def wing(left: float, right: float, out: float, eaves: float, tan: float) -> Part:
    """Return a gabled wing which runs along y from `out` into the main roof."""
    x, half = (left + right) / 2, (right - left) / 2
    inner = eaves + math.copysign(half, eaves - out)
    planes: list[Plane] = [
        (Polygon([(left, out), (left, eaves), (x, inner), (x, out)]), (-1, 0)),
        (Polygon([(right, out), (right, eaves), (x, inner), (x, out)]), (1, 0)),
    ]
    outline = box(left, min(out, eaves), right, max(out, eaves))
    return Part(outline, planes, [LineString([(x, out), (x, inner)])], half * tan)


def flat(left: float, low: float, right: float, high: float) -> Part:
    """Return a flat roof."""
    outline = box(left, low, right, high)
    return Part(outline, [(outline, (0, 0))])


def build(frame: Frame, bounds: tuple[float, float, float, float], side: int, rng: np.random.Generator) -> House:
    """Return a house of some kind.

    Args:
        frame: The frame of the lot, x along the street and y away from it.
        bounds: The main body, in that frame.
        side: On which side the garage is, -1 or 1.
        rng: The source of chance.
    """
    left, low, right, high = bounds
    slope, eaves = rng.uniform(19, 31), pick(rng, (2.8, 5.4), (0.78, 0.22))
    if chance(rng, 0.07):
        colour = tinted(rng, pick(rng, ((214, 212, 206), (190, 190, 188))), 0.03)
        return House(frame, [flat(*bounds)], colour, 0, eaves + 0.4)
    tan = math.tan(math.radians(slope))
    parts = [pick(rng, (gable, hip), (0.45, 0.55))(*bounds, tan)]
    width = min(rng.uniform(5.6, 6.6), (high - low) * 0.9)
    inner, outer = (right - width, right) if side > 0 else (left, left + width)
    if chance(rng, 0.55):
        parts.append(wing(inner, outer, low - rng.uniform(1.5, 4.5), low, tan))
    if chance(rng, 0.35):
        start = left + 0.2 if side > 0 else right - 0.2 - width
        parts.append(wing(start, start + width, high + rng.uniform(2.0, 5.0), high, tan))
    return House(frame, parts, tinted(rng, pick(rng, ROOFS, ROOF_SHARES), 0.07), slope, eaves)
