"""The ground that recipes are compared on: chips to learn from, and others that only a final figure may look at.

Each place gives `DetectionData` whose two parts both lie in its training part, for whoever chooses settings, and the
chips that are scored at the end. Those called finer are read at half the pixel size, in chips of the same ground.
Real imagery is looked for beside the repository; its SOURCE.txt says whose it is.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import geopandas as gpd
import pandas as pd
from shapely import Polygon, box

import geodetect as gd
from geodetect.chips import DetectionData
from geodetect.chips.chip import Chips
from geodetect.chips.split import split_chips
from geodetect.normalization import Normalization
from geodetect.raster import RasterReader

REAL_DATA = Path(os.environ.get("GEODETECT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SUBURB = Path(__file__).resolve().parents[2] / "sample_data"
TOWN = 14  # scenes, of 36 chips each
WEST = 2 / 3  # of Banepa's width, and of the picture of a wood


class Place(NamedTuple):
    """Chips of one place: what is learnt from and what settings are chosen on, and what is scored at the end."""

    data: DetectionData
    test: Chips


def halves(raster: Path) -> tuple[Polygon, Polygon]:
    """The west two thirds and the east third of a scene, in its CRS."""
    with RasterReader(raster) as reader:
        x1, y1, x2, y2 = reader.grid.bounds
    border = x1 + WEST * (x2 - x1)
    return box(x1, y1, border, y2), box(border, y1, x2, y2)


def suburb(seed: int, finer: int = 1) -> Place:
    """Pools and cars of the drawn suburb, 0.3 m."""
    chips = {"chip_size": 256 * finer, "pixel_size_m": None if finer == 1 else 0.3 / finer, "seed": seed}
    train, test = (
        gd.prepare_data(SUBURB / f"suburb_{part}.tif", SUBURB / f"suburb_{part}.geojson", **chips)
        for part in ("train", "test")
    )
    return Place(_small_batches(train), _all(test))


def town(seed: int) -> Place:
    """Fourteen scenes drawn as the suburb is, from other seeds, for some 400 chips to learn from."""
    folder = Path(tempfile.gettempdir()) / "geodetect_town"
    scenes = [folder / f"town_{number}.tif" for number in range(TOWN)]
    _draw_town([scene for scene in scenes if not scene.exists()])
    labels = pd.concat([gpd.read_file(scene.with_suffix(".geojson")) for scene in scenes], ignore_index=True)
    train = gd.prepare_data(scenes, labels, chip_size=256, seed=seed)
    test = gd.prepare_data(SUBURB / "suburb_test.tif", SUBURB / "suburb_test.geojson", chip_size=256, seed=seed)
    return Place(_small_batches(train), _all(test))


def banepa(seed: int, finer: int = 1) -> Place:
    """Buildings of a town, RGB at 0.3 m; the file has 0.15 m."""
    scene = REAL_DATA / "scenes" / "banepa"
    raster, labels = scene / "banepa_utm45n_15cm.tif", scene / "buildings_4326.geojson"
    chips = {"chip_size": 256 * finer, "pixel_size_m": 0.3 / finer, "seed": seed}
    west, east = (
        gd.prepare_data(raster, labels, overlap=overlap, aoi=aoi, split=split, **chips)
        for aoi, overlap, split in zip(halves(raster), (128 * finer, 0), ("blocks", "random"), strict=True)
    )
    return Place(_small_batches(west), _all(east))


def banepa_tiles(seed: int) -> Place:
    """The same town as 48 tiles in degrees with COCO's boxes, about 0.13 m; two columns of six are scored."""
    folder = REAL_DATA / "train" / "buildings_banepa_tiles"
    return _by_list(gd.prepare_data(folder, seed=seed), _listed(folder / "split.csv", "test"), seed)


def trees(seed: int, finer: int = 1) -> Place:
    """Trees of Californian towns as points, four bands at 0.6 m."""
    folder = REAL_DATA / "train" / "trees_naip_points"
    chips = {"chip_size": 256 * finer, "pixel_size_m": None if finer == 1 else 0.6 / finer, "seed": seed}
    data = gd.prepare_data(folder / "images", folder / "json", point_radius_m=3, **chips)
    return _by_list(data, _listed(folder / "split.csv", "test"), seed)


def ships(seed: int) -> Place:
    """Ships off two ports, 10 m; those off Honolulu are scored."""
    folder = REAL_DATA / "train" / "ships_sentinel2_coco"
    train, test = (gd.prepare_data(folder / port, chip_size=160, seed=seed) for port in ("casablanca", "honolulu"))
    return Place(_small_batches(train), _all(test))


def wood(seed: int) -> Place:
    """Trees of a wood, one picture of 0.1 m without a place; its right third is scored."""
    folder = REAL_DATA / "train" / "trees_deepforest"
    picture = folder / "2019_YELL_2_541000_4977000_image_crop.png"
    edges = [
        [float(edge.text or "") for edge in found]
        for found in ElementTree.parse(picture.with_suffix(".xml")).iter("bndbox")
    ]
    labels = gpd.GeoDataFrame({"label": ["tree"] * len(edges)}, geometry=[box(*edge) for edge in edges])
    with RasterReader(picture) as reader:
        height, width = reader.grid.shape
    areas = box(0, 0, WEST * width, height), box(WEST * width, 0, width, height)
    train, test = (
        gd.prepare_data(picture, labels, chip_size=256, overlap=overlap, aoi=area, split=split, seed=seed)
        for area, overlap, split in zip(areas, (128, 0), ("blocks", "random"), strict=True)
    )
    return Place(_small_batches(train), _all(test))


PLACES: dict[str, Callable[[int], Place]] = {
    place.__name__: place for place in (suburb, banepa, banepa_tiles, trees, ships, wood, town)
}
PLACES |= {f"{place.__name__}_finer": partial(place, finer=2) for place in (suburb, banepa, trees)}


def _draw_town(scenes: list[Path]) -> None:
    """Draw these scenes side by side, some 20 s each."""
    sys.path.append(str(SUBURB))
    import draw

    for scene in scenes:
        scene.parent.mkdir(exist_ok=True)
        number = int(scene.stem.rpartition("_")[2])
        plan = replace(draw.PLANS[0], name=scene.stem, seed=1000 + number, east=draw.PLANS[0].east + 1000 * number)
        with tempfile.TemporaryDirectory(dir=scene.parent) as unfinished:
            draw.draw(plan, Path(unfinished))
            for suffix in (".geojson", ".tif"):  # the picture comes last: it says that the scene is whole
                (Path(unfinished) / plan.name).with_suffix(suffix).replace(scene.with_suffix(suffix))


def _listed(path: Path, part: str) -> set[str]:
    """Names of the pictures that a table of splits puts into this part."""
    with path.open(encoding="utf-8") as file:
        return {row["image"] for row in csv.DictReader(file) if row["split"] == part}


def _by_list(data: DetectionData, test: set[str], seed: int) -> Place:
    """The chips of the named pictures are scored, the others are split anew and give the normalisation."""
    plans = [*data.plans, *data.left_out.plans]
    held = [plan for plan in plans if Path(plan.grid.name).name in test]
    parts = split_chips([plan for plan in plans if plan not in held], 0.2, "blocks", seed)
    train, valid, left = Chips(parts.train), Chips(parts.valid), Chips(parts.left_out)
    normalization = Normalization.fit(plan.reader.read(plan.window) for plan in train.plans)
    data = replace(data, train=train, valid=valid, left_out=left, normalization=normalization)
    return Place(_small_batches(data), Chips(held))


def _small_batches(data: DetectionData) -> DetectionData:
    """Batches of four: places are small, and steps count."""
    return replace(data, batch_size=4)


def _all(data: DetectionData) -> Chips:
    """Every chip, whatever its part."""
    return Chips([*data.plans, *data.left_out.plans])
