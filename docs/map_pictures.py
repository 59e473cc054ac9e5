"""Make the pictures of the map page: `python -m docs.map_pictures`, which needs Chromium and the test extra.

They show the drawn suburb with detections that are made up: most labels a little displaced, some left out, and some
boxes where there is nothing.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import shapely

import geodetect as gd
from tests.browser import Browser, Tab

ROOT = Path(__file__).resolve().parents[1]
SCENE, LABELS = ROOT / "sample_data/suburb_test.tif", ROOT / "sample_data/suburb_test.geojson"
PICTURES = ROOT / "docs/pages/pictures"


def made_up() -> gpd.GeoDataFrame:
    """Detections that are right, wrong and missing, the wrong ones with lower scores as a rule."""
    rng = np.random.default_rng(1)
    labels = gpd.read_file(LABELS).to_crs("EPSG:32616")
    seen = labels.sample(frac=0.8, random_state=1)
    bounds = seen.bounds.to_numpy()
    sides = np.tile(bounds[:, 2:] - bounds[:, :2], 2)
    right = bounds + rng.normal(0, 0.06, bounds.shape) * sides
    wrong = right[rng.choice(len(right), 60)] + np.tile(rng.uniform(-40, 40, (60, 2)), 2)
    return gpd.GeoDataFrame(
        {
            "label": [*seen["label"], *rng.choice(seen["label"], 60)],
            "score": [*rng.beta(6, 2, len(right)), *rng.beta(2, 4, 60)],
        },
        geometry=shapely.box(*np.vstack([right, wrong]).T),
        crs=labels.crs,
    )


def ready(tab: Tab) -> None:
    """Wait until the map is drawn."""
    tab.wait_for("picture.complete && frame === 0")


def main() -> None:
    """Write the three pictures."""
    with TemporaryDirectory() as folder, Browser(Path(folder) / "profile") as browser:
        page = gd.view(SCENE, made_up(), LABELS).save(Path(folder) / "map.html")
        whole = browser.open(page, 1100, 700)
        ready(whole)
        whole.screenshot(PICTURES / "map.jpg")
        for name, width, height in (("map_selected", 1100, 700), ("map_narrow", 390, 760)):
            tab = browser.open(page, width, height)
            ready(tab)
            tab.press(*"nnn")
            ready(tab)
            tab.screenshot(PICTURES / f"{name}.jpg")


if __name__ == "__main__":
    main()
