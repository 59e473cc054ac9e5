"""The page: what it counts, what it says of bad input, and that a browser runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from base64 import b64decode
from gzip import decompress
from html import escape, unescape
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely import box

import geodetect as gd
from geodetect.errors import ArgumentError, LabelsError, OutputError, RasterError
from geodetect.vector.writers import write_features
from geodetect.viewer import Page

pytest.importorskip("bokeh", reason="pages need bokeh (extra viewer)")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CRS = "EPSG:32645"
SIDE = 64


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A grey scene of 64 x 64 pixels of 1 m, its upper-left corner at (1000, 2000)."""
    path = tmp_path / "scene.tif"
    grid = {"width": SIDE, "height": SIDE, "crs": CRS, "transform": Affine(1, 0, 1000, 0, -1, 2000)}
    with rasterio.open(path, "w", driver="GTiff", count=3, dtype="uint8", **grid) as file:
        file.write(np.full((3, SIDE, SIDE), 100, "uint8"))
    return path


def square(x: float, y: float) -> object:
    """A square of 8 m with its upper-left corner x m right of and y m below the scene's."""
    return box(1000 + x, 2000 - y - 8, 1000 + x + 8, 2000 - y)


FOUND = gpd.GeoDataFrame(
    {"label": ["car", "car", "pool", "car"], "score": [0.9, 0.6, 0.8, 0.2]},
    geometry=[square(0, 0), square(20, 0), square(40, 0), square(40, 40)],
    crs=CRS,
)
# The third car has no detection, and the car of score 0.2 no label.
TRUTH = gpd.GeoDataFrame(
    {"label": ["car", "car", "pool", "car"]},
    geometry=[square(0, 0), square(20, 1), square(40, 0), square(0, 40)],
    crs=CRS,
)
SLIDE = """<script>
setTimeout(() => {
    const models = [...Bokeh.documents[0]._all_models.values()]
    const one = type => models.find(model => model.type === type)
    one("Slider").value = SCORE
    setTimeout(() => {
        document.body.append(`COUNTED ${one("CDSView").indices.count} shown: ${one("Div").text} END`)
    }, 500)
}, 500)
</script></body></html>"""


def counted(page: Page, score: float, folder: Path) -> tuple[int, str]:
    """How many boxes a browser draws from a score on, and what the page says then; nothing may fail on its console."""
    path = folder / "page.html"
    path.write_text(page.html.rsplit("</body>", 1)[0] + SLIDE.replace("SCORE", str(score)), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in run.stderr.splitlines() if ":ERROR:CONSOLE" in line or "Uncaught" in line] == []
    (told,) = re.findall(r"COUNTED (\d+) shown: (.*) END", unescape(run.stdout), re.S)
    return int(told[0]), re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", told[1]))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_slider_chooses_and_the_page_counts(scene: Path, tmp_path: Path) -> None:
    page = gd.view(scene, FOUND, TRUTH)
    # 3 of 4 detections are right, 3 of 4 labels found: and the fourth label is drawn too
    assert counted(page, 0, tmp_path) == (
        5,
        "4 detections of 4 labels: precision 75.0 %, recall 75.0 %, F1 75.0 %",
    )
    # from 0.7 on 2 of 2 are right and 2 of 4 labels are found: two labels are missed now
    assert counted(page, 0.7, tmp_path) == (
        4,
        "2 detections of 4 labels: precision 100.0 %, recall 50.0 %, F1 66.7 %",
    )


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_without_labels_nothing_is_judged(scene: Path, tmp_path: Path) -> None:
    assert counted(gd.view(scene, FOUND), 0.5, tmp_path) == (3, "3 detections")


def test_a_page_needs_nothing_from_elsewhere(scene: Path) -> None:
    page = gd.view(scene, FOUND, TRUTH).html
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"?(https?:)?//", page)
    assert "data:image/jpeg;base64," in page
    assert "scene.tif" in page


def test_a_notebook_shows_it_in_a_frame() -> None:
    assert escape('<p class="x">') in Page('<p class="x">')._repr_html_()


def test_no_detection_is_a_page_too(scene: Path) -> None:
    assert "0 detections" not in gd.view(scene, FOUND[:0]).html
    assert gd.view(scene, FOUND[:0], TRUTH).html


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".kml"])
def test_a_file_of_no_detections_is_a_page_too(scene: Path, tmp_path: Path, suffix: str) -> None:
    path = Path(write_features(FOUND[:0], tmp_path / f"none{suffix}"))
    assert gd.view(scene, path).html
    assert gd.view(scene, path, TRUTH).html


def test_features_without_a_place_or_a_class_harm_nobody(scene: Path) -> None:
    odd = FOUND.assign(label=["car", None, "pool", "car"])
    odd.loc[0, "geometry"] = None
    assert edges(gd.view(scene, odd)).shape == (2, 3)


def test_features_of_another_place_are_refused(scene: Path) -> None:
    with pytest.raises(LabelsError, match=r"none of the features lies on scene\.tif"):
        gd.view(scene, FOUND.set_geometry(FOUND.translate(500, 0)))


def edges(page: Page) -> np.ndarray:
    """The left and the upper edge of every box, in scene pixels, as the page's own data has them."""
    held = {name: re.search(rf'\["{name}",.*?"data":"(.*?)"', page.html) for name in ("left", "top")}
    return np.array([np.frombuffer(decompress(b64decode(found[1])), np.float32) for found in held.values() if found])


def test_boxes_lie_where_the_features_do_in_any_crs(scene: Path) -> None:
    expected = np.array([[0, 20, 40, 40], [0, 0, 0, 40]])
    assert np.allclose(edges(gd.view(scene, FOUND)), expected, atol=1e-3)
    assert np.allclose(edges(gd.view(scene, FOUND.to_crs(4326))), expected, atol=0.1)


def first_score(page: Page) -> float:
    """Where the slider stands at first."""
    found = re.search(r'"name":"Slider","id":"\w+","attributes":{.*?"value":([\d.]+)', page.html)
    assert found
    return float(found[1])


def test_it_begins_at_the_score_with_the_best_f1(scene: Path) -> None:
    # F1 is 6/7 from 0.6 on: three are found, all right, of four
    assert first_score(gd.view(scene, FOUND, TRUTH)) == 0.6
    assert first_score(gd.view(scene, FOUND)) == 0


def test_what_cannot_be_shown_is_said(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="There is no file"):
        gd.view(tmp_path / "none.tif", FOUND)
    with pytest.raises(LabelsError, match="There is no file"):
        gd.view(scene, tmp_path / "none.gpkg")
    with pytest.raises(ArgumentError, match="at least 1 pixel; got 0"):
        gd.view(scene, FOUND, max_side=0)
    with pytest.raises(OutputError, match=r"saved as \.html; got page\.txt"):
        Page("").save(tmp_path / "page.txt")
    with pytest.raises(OutputError, match="cannot be written"):
        Page("").save(tmp_path / "no folder" / "page.html")
