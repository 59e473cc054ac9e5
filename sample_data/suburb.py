"""An invented suburb: streets, blocks, lots, and what stands on them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from shapely.geometry import LineString, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from canvas import RESOLUTION, Canvas, Colour, Frame
from houses import House, build, flat
from streets import DEPTH, PITCH, ROAD, VERGE, WALK, Block, Plan, Streets
from things import (
    SOIL,
    Tree,
    chance,
    draw_car,
    draw_furniture,
    draw_lawn,
    draw_pool,
    draw_shed,
    draw_sheet,
    draw_trampoline,
    draw_tub,
    lit,
    pick,
    pool_outline,
    thrown,
    tinted,
)

ASPHALT, CONCRETE = (121, 119, 116), (186, 181, 171)
HIDDEN = 0.6
APART, AHEAD = 2.6, 5.5  # how near cars stand, side by side and in a lane
WIDE = 4.6  # a driveway for two cars
MAKERS = ((draw_shed, 0.42, 2.0), (draw_trampoline, 0.14, 2.2), (draw_sheet, 0.09, 2.0), (draw_furniture, 0.34, 1.8))


@dataclass(frozen=True)
class Label:
    """An object to be found: its name and its outline in scene metres."""

    name: str
    outline: Polygon


class Suburb:
    """A scene: draws itself and remembers what can be found in it."""

    def __init__(self, plan: Plan, rng: np.random.Generator) -> None:
        """Start the scene of a plan."""
        self.plan, self.sun, self.rng = plan, plan.sun, rng
        self.canvas = Canvas(plan.pixels, rng)
        self.streets = Streets(plan, rng)
        side = plan.pixels * RESOLUTION
        self.scene = box(0, 0, side, side)
        self.labels: list[Label] = []
        self.houses: list[House] = []
        self.trees: list[Tree] = []
        self.drives: list[Frame] = []
        self.walk = self.scene

    def draw(self) -> list[Label]:
        """Draw everything and return the labels of what can be seen."""
        draw_lawn(self.canvas, self.rng, self.scene.buffer(1), dry=0.35)
        self.draw_streets()
        self.draw_blocks()
        self.park_at_kerbs()
        self.drive_on_streets()
        self.plant_streets()
        self.raise_all()
        return [label for label in map(self.visible, self.labels) if label is not None]

    def visible(self, label: Label) -> Label | None:
        """Return the label clipped to the scene, or None if too little can be seen."""
        inside = label.outline.intersection(self.scene)
        if inside.area < label.outline.area / 2 or self.canvas.hidden(inside) > HIDDEN:
            return None
        return Label(label.name, inside)

    def raise_all(self) -> None:
        """Cast all shadows, then paint roofs and trees over the ground."""
        for house in self.houses:
            house.shade(self.canvas, self.sun)
        for tree in self.trees:
            tree.shade(self.canvas, self.sun)
        self.canvas.cast()
        for house in self.houses:
            house.paint(self.canvas, self.sun, self.rng)
        self.canvas.cast(self.canvas.roofs)
        for tree in self.trees:
            tree.paint(self.canvas, self.sun)

    def draw_streets(self) -> None:
        """Paint sidewalks, asphalt, kerbs, marks and repairs."""
        canvas, lines = self.canvas, list(self.streets.lines())
        road, verge, walk = (
            unary_union([line.buffer(reach) for line in lines]).buffer(3).buffer(-3).intersection(self.scene)
            for reach in (ROAD, VERGE, WALK)
        )
        self.walk = walk
        canvas.fill(walk.difference(verge), CONCRETE, mottle=0.03)
        canvas.fill(road.buffer(0.35), (172, 168, 160))
        canvas.fill(road, ASPHALT, grain=0.045, mottle=0.03)
        for line in lines:
            for offset in (-2.7, -1.2, 1.2, 2.7):
                canvas.fill(line.offset_curve(offset).buffer(0.35), (132, 131, 130), alpha=0.3)
            self.mark_middle(line)
        self.patch_asphalt()

    def mark_middle(self, line: LineString) -> None:
        """Paint worn dashes along the middle of a street."""
        for start in np.arange(0, line.length, 7.0):
            dash = LineString([line.interpolate(start), line.interpolate(start + 3)])
            self.canvas.fill(dash.buffer(0.1), (206, 196, 150), alpha=self.rng.uniform(0.1, 0.5))

    def patch_asphalt(self) -> None:
        """Paint tar patches, sealed cracks and oil along the streets."""
        rng = self.rng
        for frame in self.street_frames(9.0, 26.0):
            across, kind = rng.uniform(-3, 3), rng.random()
            if kind < 1 / 3:
                patch = box(-rng.uniform(0.6, 4), -rng.uniform(0.4, 1.2), rng.uniform(0.6, 4), 0.8)
                shade = pick(rng, ((84, 84, 88), (98, 98, 100), (136, 134, 132)))
                self.canvas.fill(frame.child(0, across).place(patch), shade, alpha=0.75)
            else:
                steps = np.cumsum(rng.normal((1.0, 0), (0.4, 0.5), (9, 2)), axis=0)
                crack = LineString(steps).buffer(0.09)
                turn = 0.0 if kind < 2 / 3 else math.pi / 2
                start = frame.child(0, across, 0) if not turn else frame.child(0, -4.5, turn)
                self.canvas.fill(start.place(crack), (74, 74, 78), alpha=0.7)

    def street_frames(self, shortest: float, longest: float) -> Iterator[Frame]:
        """Yield frames in the middle of the streets, at uneven distances, in the scene."""
        near = self.scene.buffer(8)
        for crosswise in (False, True):
            for fixed in self.streets.cross if crosswise else self.streets.long:
                others = self.streets.long if crosswise else self.streets.cross
                place = -self.streets.side
                while place < self.streets.side:
                    place += self.rng.uniform(shortest, longest)
                    u, v = (fixed, place) if crosswise else (place, fixed)
                    frame = self.streets.frame(u, v, crosswise=crosswise)
                    clear = np.abs(np.asarray(others) - place).min() > 2 * ROAD + 4
                    if clear and near.contains(Point(frame.x, frame.y)):
                        yield frame

    def add_car(self, frame: Frame) -> None:
        """Paint a car, unless one stands too near, and remember it."""
        if all(math.dist((frame.x, frame.y), (other.x, other.y)) > APART for other in self.drives):
            outline = draw_car(self.canvas, self.sun, frame, self.rng)
            self.drives.append(frame)
            self.labels.append(Label("car", outline))

    def park_at_kerbs(self) -> None:
        """Park cars along the streets, on both sides."""
        for side in (-1, 1):
            for frame in self.street_frames(7.0, 76.0):
                turn = self.rng.normal(0, 0.03) + (math.pi if chance(self.rng, 0.5) else 0)
                self.add_car(frame.child(0, side * self.rng.uniform(2.75, 3.05), turn))

    def drive_on_streets(self) -> None:
        """Put cars into the lanes."""
        for frame in self.street_frames(30.0, 190.0):
            side = pick(self.rng, (-1, 1))
            near = frame.child(0, side * 1.3, 0 if side > 0 else math.pi)
            if all(math.dist((near.x, near.y), (other.x, other.y)) > AHEAD for other in self.drives):
                self.add_car(near)

    def plant_streets(self) -> None:
        """Plant trees in the verges."""
        for side in (-1, 1):
            for frame in self.street_frames(9.0, 42.0):
                place = frame.child(0, side * (VERGE + ROAD) / 2 + self.rng.normal(0, 0.3))
                self.plant(place.x, place.y, self.rng.uniform(1.6, 3.9))

    def plant(self, x: float, y: float, radius: float) -> None:
        """Plant a tree if it can be seen."""
        if self.scene.buffer(12).contains(Point(x, y)):
            self.trees.append(Tree(x, y, radius, self.rng))

    def lush(self, frame: Frame) -> float:
        """Return how many trees grow around a place, about 0.6 in the mean."""
        window = self.canvas.window((frame.x, frame.y, frame.x + 1, frame.y + 1))
        wet = 0.0 if window is None else float(self.canvas.broad[window].mean())
        return float(np.clip(0.6 - 0.4 * wet, 0.1, 1.8))

    def draw_blocks(self) -> None:
        """Fill the blocks with lots; some have a park or a car park at one end."""
        near = self.scene.buffer(30)
        blocks = [block for block in self.streets.blocks() if self.streets.shape(block).intersects(near)]
        inner = [block for block in blocks if self.scene.buffer(-50).contains(self.streets.shape(block).centroid)]
        chosen = self.rng.permutation(len(inner))[:2]
        parks, shops = [inner[index] for index in chosen[:1]], [inner[index] for index in chosen[1:]]
        for block in blocks:
            special = block in parks or block in shops
            self.draw_lots(block, block.end - 62 if special else block.end)
            frame = self.streets.frame(block.end - 31, block.low + PITCH / 2)
            if block in parks:
                self.draw_park(frame)
            elif block in shops:
                self.draw_shop(frame)

    def draw_lots(self, block: Block, end: float) -> None:
        """Divide both sides of a block into lots."""
        for back in (False, True):
            count = max(1, round((end - block.start) / self.rng.uniform(18.5, 22.5)))
            widths = self.rng.uniform(0.85, 1.15, count)
            edges = block.start + np.concatenate(([0], widths.cumsum())) * (end - block.start) / widths.sum()
            front = block.low + (PITCH - WALK if back else WALK)
            for left, right in pairwise(edges):
                frame = self.streets.frame((left + right) / 2, front, back=back)
                if self.scene.buffer(38).contains(Point(frame.x, frame.y)):
                    Lot(self, frame, right - left).draw()

    def draw_park(self, frame: Frame) -> None:
        """Paint a park: grass, worn paths, a blue-green court, trees."""
        canvas, rng = self.canvas, self.rng
        draw_lawn(self.canvas, self.rng, frame.place(box(-30, -33, 30, 33)), dry=0.25, mown=frame.angle)
        for _ in range(3):
            ends = rng.uniform(-29, 29, (2, 2))
            path = LineString([ends[0], ends.mean(axis=0) + rng.normal(0, 4, 2), ends[1]]).buffer(0.7)
            canvas.fill(frame.place(path.buffer(2).buffer(-2)), (176, 158, 126), alpha=0.6)
        court = box(-22, -24, 2, -9)
        canvas.fill(frame.place(court), (150, 102, 86))
        canvas.fill(frame.place(court.buffer(-2.2)), (70, 128, 148), mottle=0.03)
        for inset in (2.4, 4.0):
            canvas.fill(frame.place(court.buffer(-inset).exterior.buffer(0.09)), (220, 224, 222), alpha=0.8)
        canvas.fill(frame.place(box(-10.1, -24, -9.9, -9)), (220, 224, 222), alpha=0.8)
        canvas.fill(frame.place(Point(17, -14).buffer(6)), (200, 182, 146), mottle=0.06)
        for _ in range(34):
            place = frame.child(*rng.uniform((-28, -31), (28, 31)))
            if not frame.place(court.buffer(3)).contains(Point(place.x, place.y)):
                self.plant(place.x, place.y, rng.uniform(2.0, 5.2))

    def draw_shop(self, frame: Frame) -> None:
        """Paint a large flat roof and its car park."""
        rng = self.rng
        self.canvas.fill(frame.place(box(-27, -33, 28, 33)), (124, 123, 122), mottle=0.05)
        self.houses.append(House(frame, [flat(-24, 8, 22, 30)], (206, 204, 198), 0, 6.0))
        for row, turn in ((-29, math.pi / 2), (-16.2, -math.pi / 2), (-10.2, math.pi / 2), (2.4, -math.pi / 2)):
            for x in np.arange(-24.5, 26, 2.75):
                line = box(x - 1.43, row - 2.6, x - 1.32, row + 2.6)
                self.canvas.fill(frame.place(line), (214, 214, 208), alpha=0.7)
                if chance(rng, 0.42):
                    ahead = math.pi if chance(rng, 0.3) else 0
                    self.add_car(frame.child(x, row + rng.normal(0, 0.2), turn + ahead + rng.normal(0, 0.03)))


class Lot:
    """One lot: x runs along the street, y away from it, from the middle of its front."""

    def __init__(self, suburb: Suburb, frame: Frame, width: float) -> None:
        """Choose the house and the driveway of a lot."""
        self.suburb, self.frame, self.half = suburb, frame, width / 2
        self.rng, self.canvas, self.sun = suburb.rng, suburb.canvas, suburb.sun
        rng = self.rng
        self.side = pick(rng, (-1, 1))
        half = min(self.half - rng.uniform(1.3, 2.4), 8.8)
        self.front = rng.uniform(6.5, 9.5)
        self.rear = self.front + rng.uniform(8.0, 11.0)
        self.house = build(frame, (-half, self.front, half, self.rear), self.side, rng)
        self.built = unary_union([part.outline for part in self.house.parts])
        self.street = frame.fetch(suburb.walk.intersection(frame.place(box(-25, -5, 25, DEPTH + 5)))).buffer(0.6)
        self.free: BaseGeometry = self.yard()

    def yard(self) -> BaseGeometry:
        """Return the back yard without the house."""
        bodies = self.built.buffer(1.2)
        return box(-self.half + 0.8, self.rear, self.half - 0.8, DEPTH - 0.8).difference(bodies).difference(self.street)

    def draw(self) -> None:
        """Paint the lot from the ground upwards."""
        rng = self.rng
        mown = self.frame.angle + pick(rng, (0, math.pi / 2)) if chance(rng, 0.4) else None
        dry = float(np.clip(rng.normal(0.36, 0.24), 0.0, 0.95))
        ground = self.frame.place(box(-self.half, 0, self.half, DEPTH))
        draw_lawn(self.canvas, rng, ground.difference(self.suburb.walk), dry, mown)
        self.draw_driveway()
        self.draw_patio()
        self.draw_pools()
        self.draw_things()
        self.draw_fences()
        self.plant()
        self.suburb.houses.append(self.house)

    def draw_driveway(self) -> None:
        """Paint the driveway and the path, and park cars there."""
        rng, half = self.rng, self.house.parts[0].outline.bounds[2]
        width = rng.uniform(3.2, 6.0)
        middle = self.side * (half - 3.1)
        colour = tinted(rng, pick(rng, (CONCRETE, CONCRETE, (170, 160, 150), (110, 110, 112), (176, 150, 128))))
        front = min(part.outline.bounds[1] for part in self.house.parts)
        drive = box(middle - width / 2, ROAD - WALK - 0.3, middle + width / 2, self.front)
        self.canvas.fill(self.frame.place(drive), colour, mottle=0.05)
        door, step = -self.side * 2, self.front - 1.2
        path = LineString([(middle, step), (door, step), (door, self.front)])
        self.canvas.fill(self.frame.place(path.buffer(0.6)), lit(colour, 0.97))
        places = [-0.9, 0.9] if width > WIDE else [0.0]
        for across in places:
            if chance(rng, 0.6 if len(places) > 1 else 0.72):
                turn = pick(rng, (1, -1)) * math.pi / 2 + rng.normal(0, 0.05)
                far = rng.uniform(-0.6, max(front - 2.9, -0.3))
                self.suburb.add_car(self.frame.child(middle + across * 1.4, far, turn))

    def draw_patio(self) -> None:
        """Paint a paved or wooden terrace behind the house."""
        rng = self.rng
        if chance(rng, 0.75):
            start, width, depth = rng.uniform(-6, 1), rng.uniform(3.5, 7), rng.uniform(2.5, 4.5)
            patio = box(start, self.rear - 0.5, start + width, self.rear + depth)
            colour = tinted(rng, pick(rng, ((178, 172, 162), (160, 136, 112), (132, 104, 82), (190, 176, 152))))
            self.canvas.fill(self.frame.place(patio.intersection(box(-self.half, 0, self.half, DEPTH))), colour)

    def find_place(self, shape: BaseGeometry, margin: float) -> Frame | None:
        """Return where a shape finds room in the yard, and take that room."""
        for _ in range(14):
            x, y = self.rng.uniform(-self.half, self.half), self.rng.uniform(self.rear, DEPTH)
            turn = pick(self.rng, (0, math.pi / 2)) + self.rng.normal(0, 0.06)
            taken = Frame(x, y, turn).place(shape).buffer(margin)
            if self.free.contains(taken):
                self.free = self.free.difference(taken)
                return self.frame.child(x, y, turn)
        return None

    def draw_pools(self) -> None:
        """Dig or set up a pool in most yards."""
        rng = self.rng
        tries = 3 if chance(rng, 0.84) else 0
        for _ in range(tries):
            kind, outline = pool_outline(rng)
            frame = self.find_place(outline, 0.8)
            if frame is not None:
                maker = draw_tub if kind == "round" else draw_pool
                self.suburb.labels.append(Label("pool", maker(self.canvas, self.sun, frame, outline, rng)))
                return

    def draw_things(self) -> None:
        """Put sheds, trampolines, sheets and furniture into the yard, and dig beds."""
        for maker, share, reach in MAKERS:
            if chance(self.rng, share):
                frame = self.find_place(Point(0, 0).buffer(reach), 0.1)
                if frame is not None:
                    maker(self.canvas, self.sun, frame, self.rng)
        if chance(self.rng, 0.3):
            bed = Point(self.rng.uniform(-8, 8), self.rng.uniform(self.rear + 4, DEPTH)).buffer(self.rng.uniform(1, 3))
            shape = bed.intersection(self.free) if not self.free.is_empty else bed
            self.canvas.fill(self.frame.place(shape), tinted(self.rng, SOIL), mottle=0.1, alpha=0.8)

    def draw_fences(self) -> None:
        """Fence the yard in, or plant hedges."""
        rng, top = self.rng, DEPTH - 0.1
        kind = rng.random()
        runs = [((-self.half, self.rear), (-self.half, top)), ((-self.half, top), (self.half, top))]
        for start, end in runs:
            line = self.frame.place(LineString([start, end]).difference(self.street))
            if kind < 2 / 3:
                colour: Colour = pick(rng, ((140, 116, 94), (164, 156, 146), (200, 198, 192), (120, 104, 92)))
                post = line.buffer(0.14)
                self.canvas.darken(thrown(post, self.sun, 1.3).difference(post), 0.75)
                self.canvas.fill(post, tinted(rng, colour))
            elif kind < 1 - 1 / 9:
                for far in np.arange(0.5, line.length, 1.0):
                    place = line.interpolate(far)
                    self.suburb.plant(place.x + rng.normal(0, 0.12), place.y, rng.uniform(0.6, 0.95))

    def plant(self) -> None:
        """Plant trees behind the house, and trees and bushes before it."""
        rng = self.rng
        for _ in range(int(rng.poisson(4.5 * self.suburb.lush(self.frame)))):
            x, y, radius = rng.uniform(-self.half, self.half), rng.uniform(self.rear + 2, DEPTH), rng.gamma(5, 0.56)
            near = Point(x, y).buffer(radius * 0.55)
            if self.free.contains(near) or chance(rng, 0.12):
                self.put(x, y, min(max(radius, 1.0), 6.2))
        for _ in range(int(rng.poisson(1.1 * self.suburb.lush(self.frame)))):
            self.put(rng.uniform(-self.half, self.half), rng.uniform(1, self.front - 2.5), rng.uniform(1.2, 3.4))
        for x in np.arange(-self.half + 2, self.half - 2, 1.1):
            if chance(rng, 0.4) and not self.built.intersects(Point(x, self.front - 0.6)):
                self.put(x, self.front - 0.6 + rng.normal(0, 0.15), rng.uniform(0.4, 0.8))

    def put(self, x: float, y: float, radius: float) -> None:
        """Plant a tree at a place of the lot."""
        place = self.frame.child(x, y)
        self.suburb.plant(place.x, place.y, radius)
