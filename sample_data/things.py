"""The things which stand in a suburb: pools, cars, trees and small objects."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from shapely.affinity import rotate, scale, translate
from shapely.geometry import LineString, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from canvas import STEP, Canvas, Colour, Frame, Sun, Window

T = TypeVar("T")

GREEN, DRY, SOIL = (96, 118, 66), (166, 152, 112), (150, 124, 96)
WATERS: Sequence[Colour] = (
    (92, 178, 200), (70, 158, 196), (104, 194, 206), (60, 138, 184), (126, 200, 206),
    (84, 182, 186), (48, 118, 166), (112, 176, 160), (86, 140, 120),
)  # fmt: skip
POOL_KINDS = ("rectangle", "rounded", "oval", "kidney", "ell", "round")
POOL_SHARES = (0.26, 0.18, 0.12, 0.2, 0.08, 0.16)
DECKS: Sequence[Colour] = ((196, 190, 178), (184, 170, 150), (170, 168, 166), (204, 192, 170), (150, 128, 106))
PAINTS: Sequence[Colour] = (
    (226, 227, 226), (178, 181, 184), (38, 40, 43), (112, 115, 119), (146, 40, 38),
    (48, 70, 118), (150, 136, 112), (60, 84, 70), (196, 150, 60), (84, 88, 94),
)  # fmt: skip
PAINT_SHARES = (0.25, 0.17, 0.16, 0.13, 0.08, 0.08, 0.04, 0.02, 0.01, 0.06)
GREENS: Sequence[Colour] = (
    (78, 98, 52), (66, 90, 48), (92, 110, 58), (58, 80, 50), (102, 114, 66), (84, 92, 60), (96, 74, 62),
)  # fmt: skip
GREEN_SHARES = (0.22, 0.22, 0.18, 0.16, 0.12, 0.07, 0.03)


def pick(rng: np.random.Generator, choices: Sequence[T], shares: Sequence[float] | None = None) -> T:
    """Return one of the choices."""
    return choices[int(rng.choice(len(choices), p=shares))]


def chance(rng: np.random.Generator, share: float) -> bool:
    """Return true this share of the times."""
    return bool(rng.random() < share)


def tinted(rng: np.random.Generator, colour: Colour, spread: float = 0.06) -> Colour:
    """Return a colour slightly brighter or darker, and slightly off its hue."""
    light = 1 + rng.normal(0, spread)
    red, green, blue = (band * light * (1 + rng.normal(0, spread / 3)) for band in colour)
    return red, green, blue


def lit(colour: Colour, brightness: float) -> Colour:
    """Return a colour made brighter or darker."""
    return colour[0] * brightness, colour[1] * brightness, colour[2] * brightness


def draw_lawn(
    canvas: Canvas, rng: np.random.Generator, shape: BaseGeometry, dry: float, mown: float | None = None
) -> None:
    """Paint grass, green to dry, with bare patches and perhaps mowing stripes."""
    found = canvas.mask(shape)
    if found is None:
        return
    window, mask = found
    share = dry + 0.17 * canvas.broad[window] + 0.09 * canvas.mottle[window]
    bare = np.clip(4 * (share + 0.1 * canvas.mottle[window] - 0.95), 0, 1)[..., None]
    share = np.clip(share, 0, 1)[..., None]
    green, brown, soil = (np.asarray(tinted(rng, colour, 0.07)) for colour in (GREEN, DRY, SOIL))
    patch = (green * (1 - share) + brown * share) * (1 - bare) + soil * bare
    light = 1 + 0.055 * canvas.grain[window] + 0.05 * canvas.mottle[window]
    if mown is not None:
        rows, columns = np.indices(mask.shape)
        light += 0.035 * np.sign(np.sin((rows * math.cos(mown) - columns * math.sin(mown)) * 0.55))
    canvas.blend(window, mask, patch * light[..., None])


def thrown(shape: Polygon, sun: Sun, height: float) -> Polygon:
    """Return the shadow of a convex body with this outline and height."""
    return shape.union(translate(shape, *sun.shadow(height))).convex_hull


def rounded(length: float, width: float, radius: float, segments: int = 4) -> Polygon:
    """Return a rectangle about the origin with rounded corners."""
    inner = box(radius - length / 2, radius - width / 2, length / 2 - radius, width / 2 - radius)
    return inner.buffer(radius, quad_segs=segments)


def _ell(rng: np.random.Generator, length: float, width: float) -> Polygon:
    """Return an L-shaped pool."""
    notch = box(-length / 2, 0, length * rng.uniform(-0.1, 0.15), width)
    return rounded(length, width * 1.3, 0.2).difference(notch)


def _kidney(rng: np.random.Generator, length: float, width: float) -> Polygon:
    """Return a kidney-shaped pool."""
    large, small = width * 0.5, width * rng.uniform(0.36, 0.44)
    left = Point(large - length / 2, 0).buffer(large)
    right = Point(length / 2 - small, width * rng.uniform(0.1, 0.25)).buffer(small)
    bridge = LineString([left.centroid, right.centroid]).buffer(width * 0.3)
    return unary_union([left, right, bridge]).buffer(2.5).buffer(-2.5)


def pool_outline(rng: np.random.Generator) -> tuple[str, Polygon]:
    """Return the kind of a pool and its water, about the origin."""
    kind = pick(rng, POOL_KINDS, POOL_SHARES)
    length = rng.uniform(6.0, 11.5)
    width = min(length * rng.uniform(0.42, 0.6), 5.6)
    if kind == "round":
        outline = Point(0, 0).buffer(rng.uniform(1.6, 2.8))
    elif kind == "oval":
        outline = scale(Point(0, 0).buffer(0.5), length * 0.9, width)
    elif kind == "kidney":
        outline = _kidney(rng, length, width)
    elif kind == "ell":
        outline = _ell(rng, length, width)
    else:
        outline = rounded(length, width, 0.05 if kind == "rectangle" else width * 0.3)
    return kind, outline.simplify(0.03)


def _water(canvas: Canvas, rng: np.random.Generator, shape: Polygon, heading: float) -> None:
    """Paint water: deeper away from the edge and to one end, with caustics."""
    found = canvas.mask(shape)
    if found is None:
        return
    window, mask = found
    edge = np.clip(distance_transform_edt(mask) * STEP / 1.1, 0, 1)
    rows, columns = (np.indices(mask.shape) - np.array(mask.shape)[:, None, None] / 2) * STEP
    along = np.clip((columns * math.cos(heading) + rows * math.sin(heading)) / 8, -0.6, 0.6)
    caustics = np.exp(-np.abs(canvas.grain[window]) * 1.6) - 0.4
    light = 1.16 - 0.14 * edge + rng.choice([-0.18, 0.18]) * along + 0.09 * caustics
    patch = light[..., None] * np.asarray(tinted(rng, pick(rng, WATERS)), np.float32)
    canvas.blend(window, mask, patch + (1 - edge[..., None]) * 8)


def _steps(canvas: Canvas, rng: np.random.Generator, outline: Polygon, frame: Frame) -> None:
    """Paint the light steps at one end of a pool."""
    left, low, right, high = outline.bounds
    middle = (low + high) / 2 + rng.uniform(-0.5, 0.5)
    end = left if chance(rng, 0.5) else right
    for reach, alpha in ((1.1, 0.25), (0.6, 0.35)):
        step = box(end - reach, middle - 1.1, end + reach, middle + 1.1).intersection(outline)
        canvas.fill(frame.place(step), (214, 228, 226), alpha=alpha)


def draw_pool(canvas: Canvas, sun: Sun, frame: Frame, outline: Polygon, rng: np.random.Generator) -> Polygon:
    """Paint an in-ground pool with its surround and return the water's outline."""
    water = frame.place(outline)
    if chance(rng, 0.8):
        deck, reach = tinted(rng, pick(rng, DECKS)), rng.uniform(0.6, 1.7)
        ground = outline.envelope if chance(rng, 0.5) else outline
        canvas.fill(frame.place(ground.buffer(reach, join_style="mitre")), deck, mottle=0.05)
    canvas.fill(water.buffer(0.3), tinted(rng, (214, 208, 198)), mottle=0.02)
    _water(canvas, rng, water, frame.angle)
    if chance(rng, 0.6):
        _steps(canvas, rng, outline, frame)
    canvas.darken(water.difference(translate(water, *sun.shadow(0.35))), 0.6)
    return water


def draw_tub(canvas: Canvas, sun: Sun, frame: Frame, outline: Polygon, rng: np.random.Generator) -> Polygon:
    """Paint an above-ground pool and return the water's outline."""
    water = frame.place(outline)
    canvas.darken(thrown(water.buffer(0.2), sun, 1.2).difference(water), 0.9)
    canvas.fill(water.buffer(0.2), tinted(rng, pick(rng, ((220, 222, 222), (150, 160, 170), (90, 110, 140)))))
    _water(canvas, rng, water, frame.angle)
    canvas.darken(water.difference(translate(water, *sun.shadow(0.5))), 0.6)
    return water


def _glass(length: float, width: float, kind: str) -> list[Polygon]:
    """Return the windows of a car which points along x."""
    half, nose = width / 2, 0.24 if kind == "van" else 0.17
    tail = {"sedan": -0.36, "wagon": -0.46, "van": -0.47, "pickup": -0.1}[kind] * length
    front = Polygon([(nose * length, -half * 0.85), (nose * length, half * 0.85),
                     (nose * length - 0.75, half * 0.7), (nose * length - 0.75, -half * 0.7)])  # fmt: skip
    depth = 0.3 if kind in ("wagon", "van") else 0.6
    back = Polygon([(tail, -half * 0.8), (tail, half * 0.8), (tail + depth, half * 0.7), (tail + depth, -half * 0.7)])
    sides = [
        box(tail + 0.5, side * half * 0.84 - 0.07, nose * length - 0.6, side * half * 0.84 + 0.07) for side in (-1, 1)
    ]
    return [front, back, *sides]


def draw_car(canvas: Canvas, sun: Sun, frame: Frame, rng: np.random.Generator) -> Polygon:
    """Paint a car which points along the frame's x axis and return its outline."""
    kind = pick(rng, ("sedan", "wagon", "van", "pickup"), (0.42, 0.36, 0.08, 0.14))
    length = rng.uniform(4.2, 4.9) + (0.35 if kind in ("pickup", "van") else 0)
    width = rng.uniform(1.78, 1.98)
    body, paint = rounded(length, width, 0.38, 2), tinted(rng, pick(rng, PAINTS, PAINT_SHARES), 0.05)
    outline = frame.place(body)
    canvas.darken(thrown(outline.buffer(0.08), sun, 1.25).difference(outline), 0.95)
    canvas.fill(outline, paint, grain=0.02, mottle=0)
    bonnet = frame.place(box(length * 0.2, -width * 0.36, length * 0.44, width * 0.36))
    canvas.fill(bonnet, lit(paint, 1.07), grain=0.02, mottle=0)
    for pane in _glass(length, width, kind):
        canvas.fill(frame.place(pane), tinted(rng, (40, 46, 54)), grain=0.02, mottle=0, alpha=0.9)
    if kind == "pickup":
        bed = frame.place(box(-length * 0.46, -width * 0.38, -length * 0.13, width * 0.38))
        canvas.fill(bed, tinted(rng, lit(paint, 0.5)), mottle=0)
    lee = outline.difference(translate(outline, *(-0.15 * step for step in sun.towards)))
    canvas.fill(lee.intersection(outline), (250, 250, 248), alpha=0.22)
    return outline


def _crown(rng: np.random.Generator, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the height of a tree crown over its rim, and where it is."""
    reach = math.ceil(radius * 1.15 / STEP) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32) * np.float32(STEP)
    count = int(8 + 5 * radius)
    turn, away = rng.uniform(0, 2 * math.pi, count), radius * 0.72 * np.sqrt(rng.random(count))
    size = radius * rng.uniform(0.24, 0.42, count) + 0.15
    far = (columns - (away * np.cos(turn))[:, None, None]) ** 2 + (rows - (away * np.sin(turn))[:, None, None]) ** 2
    dome = np.sqrt(np.clip(size[:, None, None] ** 2 - far, 0, None))
    base = np.sqrt(np.clip(radius**2 - away**2, 0, None))[:, None, None] * 0.75
    height = np.where(dome > 0, dome + base, 0).max(axis=0)
    return height, height > 0


def _shifted(canvas: Canvas, shape: tuple[int, int], x: float, y: float) -> tuple[Window, Window] | None:
    """Return the windows of the canvas and of a patch centred on (x, y)."""
    top, left = round(y / STEP) - shape[0] // 2, round(x / STEP) - shape[1] // 2
    rows = slice(max(0, top), min(canvas.size, top + shape[0]))
    columns = slice(max(0, left), min(canvas.size, left + shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    return (rows, columns), inside


class Tree:
    """A tree: its shadow is cast first, its crown is painted last."""

    def __init__(self, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
        """Grow a tree at a place of the scene."""
        self.x, self.y = x, y
        self.height, self.alpha = _crown(rng, radius)
        self.middle = 0.6 + radius * rng.uniform(1.1, 1.6)
        self.colour = tinted(rng, pick(rng, GREENS, GREEN_SHARES), 0.09)
        self.rough = rng.standard_normal(self.alpha.shape).astype(np.float32)

    def shade(self, canvas: Canvas, sun: Sun) -> None:
        """Cast the shadow, on the ground and on the roofs."""
        for layer, lower in ((canvas.shade, 0.0), (canvas.roof_shade, 4.0)):
            for share in (0.5, 0.8, 1.1):
                dx, dy = sun.shadow(max(self.middle * share - lower, -1))
                found = _shifted(canvas, self.alpha.shape, self.x + dx, self.y + dy)
                if found is not None and self.middle * share > lower:
                    layer[found[0]] = np.maximum(layer[found[0]], 0.92 * self.alpha[found[1]])

    def paint(self, canvas: Canvas, sun: Sun) -> None:
        """Paint the crown, lit from the sun's side."""
        found = _shifted(canvas, self.alpha.shape, self.x, self.y)
        if found is None:
            return
        window, inside = found
        slopes = np.gradient(gaussian_filter(self.height, 0.7), STEP)
        facing = -(slopes[1] * sun.towards[0] + slopes[0] * sun.towards[1])
        deep = self.height / max(float(self.height.max()), 0.1)
        light = 0.5 + 0.32 * np.tanh(0.8 * facing) + 0.45 * deep + 0.09 * gaussian_filter(self.rough, 0.8) / 0.35
        patch = np.clip(light, 0.2, 1.7)[..., None] * np.asarray(self.colour, np.float32)
        canvas.blend(window, 0.97 * self.alpha[inside], patch[inside])
        canvas.crowns[window] |= self.alpha[inside]


def draw_trampoline(canvas: Canvas, sun: Sun, frame: Frame, rng: np.random.Generator) -> None:
    """Paint a trampoline: a dark mat within a blue or green rim."""
    mat = frame.place(Point(0, 0).buffer(rng.uniform(1.5, 2.1)))
    canvas.darken(thrown(mat, sun, 0.8).difference(mat.buffer(0.3)), 0.7)
    canvas.fill(mat.buffer(0.4), pick(rng, ((58, 104, 180), (66, 140, 176), (84, 140, 92))))
    canvas.fill(mat, (44, 46, 52))


def draw_sheet(canvas: Canvas, sun: Sun, frame: Frame, rng: np.random.Generator) -> None:
    """Paint a crumpled tarpaulin over some heap."""
    sheet = frame.place(rotate(box(-1.6, -1.2, 1.6, 1.2), rng.uniform(-20, 20)))
    canvas.darken(thrown(sheet, sun, 0.6).difference(sheet), 0.8)
    canvas.fill(sheet, tinted(rng, pick(rng, ((58, 98, 164), (70, 118, 176), (110, 120, 100)))), grain=0.1, mottle=0.12)


def draw_shed(canvas: Canvas, sun: Sun, frame: Frame, rng: np.random.Generator) -> None:
    """Paint a small shed with two roof planes."""
    length, width = rng.uniform(2.2, 4.0), rng.uniform(1.8, 2.6)
    colour = tinted(rng, pick(rng, ((150, 150, 148), (120, 100, 84), (196, 196, 192), (110, 126, 138), (100, 110, 96))))
    outline = frame.place(box(-length / 2, -width / 2, length / 2, width / 2))
    canvas.darken(thrown(outline, sun, 2.3).difference(outline))
    for side in (-1, 1):
        plane = box(-length / 2, min(0, side * width / 2), length / 2, max(0, side * width / 2))
        canvas.fill(frame.place(plane), lit(colour, sun.brightness(frame.turn(0, side), 22)))


def draw_furniture(canvas: Canvas, sun: Sun, frame: Frame, rng: np.random.Generator) -> None:
    """Paint white loungers, or a table under an umbrella."""
    if chance(rng, 0.4):
        top = frame.place(Point(0, 0).buffer(rng.uniform(1.0, 1.5), quad_segs=2))
        canvas.darken(thrown(top, sun, 2.0).difference(top))
        canvas.fill(top, tinted(rng, pick(rng, ((222, 218, 208), (150, 60, 52), (70, 96, 130), (196, 180, 150)))))
        return
    gap = rng.uniform(0.95, 1.6)
    for index in range(int(rng.integers(1, 4))):
        lounger = frame.place(translate(box(-0.35, -0.9, 0.35, 0.9), index * gap - 1.2, rng.normal(0, 0.15)))
        canvas.darken(thrown(lounger, sun, 0.5).difference(lounger), 0.8)
        canvas.fill(lounger, (226, 224, 218))
