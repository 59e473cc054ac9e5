"""Draw the sample scenes: two parts of an invented suburb, with labels.

Run as ``python sample_data/draw.py [OUT_DIR]``. The same scenes come out each time.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform_geom
from scipy.ndimage import gaussian_filter
from shapely.geometry import Polygon, mapping
from shapely.geometry.polygon import orient

from canvas import RESOLUTION, SUPERSAMPLING, Canvas, Sun, smooth_noise
from streets import Plan
from suburb import Label, Suburb

UTM = CRS.from_epsg(32616)
WGS84 = CRS.from_epsg(4326)
PLANS = (
    Plan("suburb_train", seed=20, pixels=1600, east=531200.0, north=3718400.0, angle=0.21, sun=Sun(142, 46)),
    Plan("suburb_test", seed=77, pixels=1100, east=533900.0, north=3716900.0, angle=-0.48, sun=Sun(146, 47)),
)


def photograph(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Return the canvas as a camera in an aeroplane would see it."""
    side = canvas.size // SUPERSAMPLING
    seen = canvas.pixels.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING, 3).mean(axis=(1, 3))
    seen = gaussian_filter(seen, (0.6, 0.6, 0))
    light = 1 + 0.02 * smooth_noise(rng, canvas.size, 120.0)[::SUPERSAMPLING, ::SUPERSAMPLING]
    across = np.linspace(-1, 1, side)
    light -= 0.05 * (0.6 * across[:, None] ** 2 + across[None, :] ** 2)
    seen = seen * light[..., None] * np.array([1.03, 1.01, 0.97]) + np.array([5.0, 7.0, 11.0])
    seen += rng.normal(0, 2.2, (side, side, 1)) + rng.normal(0, 1.2, (side, side, 3))
    return np.asarray(np.clip(np.round(seen), 0, 255), np.uint8)


def write_image(path: Path, picture: np.ndarray, transform: Affine) -> None:
    """Write a picture as a GeoTIFF."""
    height, width, bands = picture.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": "uint8"}
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    packing = {"compress": "JPEG", "photometric": "YCBCR", "jpeg_quality": 88}
    with rasterio.open(path, "w", crs=UTM, transform=transform, **profile, **layout, **packing) as image:
        image.write(picture.transpose(2, 0, 1))


def to_feature(label: Label, transform: Affine) -> dict[str, object]:
    """Return a label as a GeoJSON feature in longitude and latitude."""
    corners = [(transform.c + x, transform.f - y) for x, y in label.outline.exterior.coords]
    outline = transform_geom(UTM, WGS84, mapping(orient(Polygon(corners))), precision=8)
    return {"type": "Feature", "properties": {"label": label.name}, "geometry": outline}


def write_labels(path: Path, labels: list[Label], transform: Affine) -> None:
    """Write labels as one GeoJSON collection, a feature a line."""
    lines = ",\n".join(json.dumps(to_feature(label, transform)) for label in labels)
    path.write_text(f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n')


def draw(plan: Plan, folder: Path) -> None:
    """Draw one scene and write its image and labels."""
    rng = np.random.default_rng(plan.seed)
    suburb = Suburb(plan, rng)
    labels = suburb.draw()
    transform = Affine(RESOLUTION, 0, plan.east, 0, -RESOLUTION, plan.north)
    write_image(folder / f"{plan.name}.tif", photograph(suburb.canvas, rng), transform)
    write_labels(folder / f"{plan.name}.geojson", labels, transform)


def main() -> None:
    """Draw all scenes."""
    parser = argparse.ArgumentParser(description="Draw the sample scenes and their labels.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="where to write")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for plan in PLANS:
        draw(plan, folder)


if __name__ == "__main__":
    main()
