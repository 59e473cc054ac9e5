"""The streets of an invented suburb: a grid, turned and gently bent."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from shapely.geometry import LineString, Polygon

from canvas import RESOLUTION, Frame, Sun

ROAD, VERGE, WALK = 4.1, 6.0, 7.4  # distances from the middle of the street, in metres
DEPTH = 33.0
CORNER = WALK + 1.8
PITCH = 2 * (WALK + DEPTH)


@dataclass(frozen=True)
class Plan:
    """What one scene is drawn from."""

    name: str
    seed: int
    pixels: int
    east: float
    north: float
    angle: float
    sun: Sun


@dataclass(frozen=True)
class Block:
    """A block between two streets and two cross streets, in street coordinates."""

    start: float
    end: float
    low: float


class Streets:
    """A street grid, turned and gently bent."""

    def __init__(self, plan: Plan, rng: np.random.Generator) -> None:
        """Lay the streets of a plan."""
        self.side = plan.pixels * RESOLUTION
        self.angle = plan.angle
        self.phase = rng.uniform(0, 2 * math.pi, 4)
        reach = self.side * 0.72 + 2 * PITCH
        self.long = np.arange(-reach + rng.uniform(0, PITCH), reach, PITCH)
        self.cross = rng.uniform(110, 185, int(2 * reach / 120)).cumsum() - reach

    def at(self, u: float, v: float) -> tuple[float, float]:
        """Return the place in the scene of a point on the grid."""
        bent_u = u + 12 * math.sin(v / 80 + self.phase[0]) + 3 * math.sin(v / 41 + self.phase[1])
        bent_v = v + 15 * math.sin(u / 74 + self.phase[2]) + 5 * math.sin(u / 160 + self.phase[3])
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.side / 2 + cos * bent_u - sin * bent_v, self.side / 2 + sin * bent_u + cos * bent_v

    def frame(self, u: float, v: float, *, crosswise: bool = False, back: bool = False) -> Frame:
        """Return a frame at a point of the grid, which heads along the street."""
        du, dv = (0, 0.5) if crosswise else (0.5, 0)
        (x0, y0), (x1, y1) = self.at(u - du, v - dv), self.at(u + du, v + dv)
        angle = math.atan2(y1 - y0, x1 - x0) + (math.pi if back else 0)
        return Frame(*self.at(u, v), angle)

    def lines(self) -> Iterator[LineString]:
        """Yield the middle line of each street."""
        along = np.arange(self.long[0] - PITCH, self.long[-1] + PITCH, 4.0)
        yield from (LineString([self.at(u, v) for u in np.arange(-self.side, self.side, 4.0)]) for v in self.long)
        yield from (LineString([self.at(u, v) for v in along]) for u in self.cross)

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks."""
        for start, end in zip(self.cross[:-1], self.cross[1:], strict=True):
            yield from (Block(start + CORNER, end - CORNER, low) for low in self.long[:-1])

    def shape(self, block: Block) -> Polygon:
        """Return the outline of a block."""
        low, high = block.low + WALK, block.low + PITCH - WALK
        return Polygon([self.at(u, v) for u in (block.start, block.end) for v in (low, high)]).convex_hull
