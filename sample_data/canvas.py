"""A canvas measured in metres, and the light which falls on it."""

import math
from dataclasses import dataclass

import numpy as np
from rasterio.features import rasterize
from rasterio.transform import Affine
from scipy.ndimage import gaussian_filter
from shapely.affinity import affine_transform
from shapely.geometry.base import BaseGeometry

RESOLUTION = 0.3
SUPERSAMPLING = 2
STEP = RESOLUTION / SUPERSAMPLING

Colour = tuple[float, float, float]
Window = tuple[slice, slice]


@dataclass(frozen=True)
class Frame:
    """A local coordinate frame: an origin in scene metres and a heading."""

    x: float
    y: float
    angle: float

    def place(self, shape: BaseGeometry) -> BaseGeometry:
        """Return the shape moved from this frame into the scene."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return affine_transform(shape, [cos, -sin, sin, cos, self.x, self.y])

    def fetch(self, shape: BaseGeometry) -> BaseGeometry:
        """Return the shape moved from the scene into this frame."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        back = -cos * self.x - sin * self.y, sin * self.x - cos * self.y
        return affine_transform(shape, [cos, sin, -sin, cos, *back])

    def turn(self, dx: float, dy: float) -> tuple[float, float]:
        """Return a vector of this frame as a vector of the scene."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return cos * dx - sin * dy, sin * dx + cos * dy

    def child(self, dx: float, dy: float, angle: float = 0.0) -> "Frame":
        """Return a frame at (dx, dy) of this one, turned by an angle."""
        x, y = self.turn(dx, dy)
        return Frame(self.x + x, self.y + y, self.angle + angle)


@dataclass(frozen=True)
class Sun:
    """The position of the sun, in degrees; azimuth counts clockwise from north."""

    azimuth: float
    elevation: float

    @property
    def towards(self) -> tuple[float, float]:
        """Unit vector to the sun over the ground, x right and y down."""
        angle = math.radians(self.azimuth)
        return math.sin(angle), -math.cos(angle)

    def shadow(self, height: float) -> tuple[float, float]:
        """Return how far the shadow of a point at this height is thrown."""
        length = height / math.tan(math.radians(self.elevation))
        return -self.towards[0] * length, -self.towards[1] * length

    def brightness(self, downhill: tuple[float, float], slope: float) -> float:
        """Return the brightness of a plane which falls towards `downhill`."""
        up, tilt = math.radians(self.elevation), math.radians(slope)
        along = downhill[0] * self.towards[0] + downhill[1] * self.towards[1]
        facing = math.sin(tilt) * math.cos(up) * along + math.cos(tilt) * math.sin(up)
        return 0.42 + 0.68 * max(0.0, facing)


def _spline(count: int, knots: int, scale: float) -> np.ndarray:
    """Return cubic B-spline weights from knots to samples."""
    distance = np.abs(np.arange(count)[:, None] / scale + 1 - np.arange(knots)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.asarray(np.where(distance < 1, near, far), np.float32)


def smooth_noise(rng: np.random.Generator, size: int, metres: float) -> np.ndarray:
    """Return a square of noise with one feature size, mean 0 and deviation 1."""
    scale = metres / STEP
    knots = int(size / scale) + 4
    weights = _spline(size, knots, scale)
    noise = weights @ rng.standard_normal((knots, knots)).astype(np.float32) @ weights.T
    return np.asarray((noise - noise.mean()) / noise.std())


class Canvas:
    """Picture, noise, shadow and cover layers of one scene.

    Attributes:
        size: The side of the layers, in supersampled pixels.
        pixels: The picture, as 0 to 255 in three bands.
        grain: Noise of the finest scale, for every surface.
        mottle: Noise of a few metres.
        broad: Noise of tens of metres.
        shade: How much of the sun is kept from the ground, 0 to 1.
        roof_shade: The same at the height of the roofs.
        roofs: Where a roof hides the ground.
        crowns: Where a tree hides the ground.
    """

    def __init__(self, pixels: int, rng: np.random.Generator) -> None:
        """Start an empty canvas with this many output pixels a side."""
        self.size = size = pixels * SUPERSAMPLING
        self.pixels = np.zeros((size, size, 3), np.float32)
        white = rng.standard_normal((size, size)).astype(np.float32)
        fine = gaussian_filter(white, 1.0)
        self.grain = 0.8 * fine / fine.std() + 0.6 * smooth_noise(rng, size, 0.9)
        self.mottle = 0.7 * smooth_noise(rng, size, 3.0) + 0.7 * smooth_noise(rng, size, 1.6)
        self.broad = 0.7 * smooth_noise(rng, size, 9.0) + 0.7 * smooth_noise(rng, size, 40.0)
        self.shade = np.zeros((size, size), np.float32)
        self.roof_shade = np.zeros((size, size), np.float32)
        self.roofs = np.zeros((size, size), bool)
        self.crowns = np.zeros((size, size), bool)

    def window(self, bounds: tuple[float, float, float, float]) -> Window | None:
        """Return the part of the canvas within bounds in metres, if any."""
        left, top = (max(0, math.floor(bound / STEP)) for bound in bounds[:2])
        right, bottom = (min(self.size, math.ceil(bound / STEP)) for bound in bounds[2:])
        if left >= right or top >= bottom:
            return None
        return slice(top, bottom), slice(left, right)

    def mask(self, shape: BaseGeometry) -> tuple[Window, np.ndarray] | None:
        """Return where the shape lies: a window and the mask in it."""
        window = None if shape.is_empty else self.window(shape.bounds)
        if window is None:
            return None
        rows, columns = window
        transform = Affine(STEP, 0, columns.start * STEP, 0, STEP, rows.start * STEP)
        out_shape = rows.stop - rows.start, columns.stop - columns.start
        return window, rasterize([shape], out_shape, transform=transform, dtype="uint8") > 0

    def texture(self, window: Window, colour: Colour, grain: float, mottle: float) -> np.ndarray:
        """Return a patch of a colour made uneven by the noise layers."""
        uneven = 1 + grain * self.grain[window] + mottle * self.mottle[window]
        return np.asarray(uneven[..., None] * np.asarray(colour, np.float32))

    def blend(self, window: Window, alpha: np.ndarray, patch: np.ndarray) -> None:
        """Lay a patch over the picture."""
        under = self.pixels[window]
        under += alpha[..., None].astype(np.float32) * (patch - under)

    def fill(
        self,
        shape: BaseGeometry,
        colour: Colour,
        *,
        grain: float = 0.04,
        mottle: float = 0.04,
        alpha: float = 1.0,
    ) -> None:
        """Fill a shape with an uneven colour."""
        found = self.mask(shape)
        if found is not None:
            window, mask = found
            self.blend(window, alpha * mask, self.texture(window, colour, grain, mottle))

    def darken(self, shape: BaseGeometry, depth: float = 1.0) -> None:
        """Keep the sun from the ground within a shape."""
        found = self.mask(shape)
        if found is not None:
            window, mask = found
            np.maximum(self.shade[window], depth * mask, out=self.shade[window])

    def cast(self, where: np.ndarray | None = None) -> None:
        """Apply the shadows: on the ground, or of tall trees where there are roofs."""
        layer = self.shade if where is None else np.where(where, self.roof_shade, 0)
        soft = gaussian_filter(layer, 1.3)
        for band, depth in enumerate((0.60, 0.56, 0.48)):
            self.pixels[..., band] *= 1 - depth * soft

    def hidden(self, shape: BaseGeometry) -> float:
        """Return how much of a shape lies under roofs and crowns, 0 to 1."""
        found = self.mask(shape)
        if found is None or not found[1].any():
            return 1.0
        window, mask = found
        return float((self.roofs[window] | self.crowns[window])[mask].mean())
