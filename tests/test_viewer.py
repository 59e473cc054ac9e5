"""The page: what it counts, draws and says, in a browser; what it holds; what is said of bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from IPython.core.formatters import DisplayFormatter
from pyproj import CRS as ProjCRS
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning
from shapely import box

import geodetect as gd
from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced, OutputError, RasterError
from geodetect.grid import Grid
from geodetect.vector.writers import write_features
from geodetect.viewer import Page
from geodetect.viewer.content import describe_scene
from tests.browser import CHROMIUM, Browser, Tab

CRS = "EPSG:32645"
SIDE = 64
GREY = 100


def painted(path: Path, transform: Affine | None, crs: str | None, shape: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """A raster that is grey all over."""
    grid = {"height": shape[0], "width": shape[1], "crs": crs, "transform": transform}
    profile = {name: value for name, value in grid.items() if value is not None}
    with rasterio.open(path, "w", driver="GTiff", count=3, dtype="uint8", **profile) as file:
        file.write(np.full((3, *shape), GREY, "uint8"))
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A grey scene of 64 x 64 pixels of 1 m, its upper-left corner at (1000, 2000)."""
    return painted(tmp_path / "scene.tif", Affine(1, 0, 1000, 0, -1, 2000), CRS)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A grey picture that lies nowhere."""
    with pytest.warns(NotGeoreferencedWarning):
        return painted(tmp_path / "plain.tif", None, None)


def square(x: float, y: float, side: float = 8) -> shapely.Polygon:
    """A square with its upper-left corner x m right of and y m below the scene's."""
    return box(1000 + x, 2000 - y - side, 1000 + x + side, 2000 - y)


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


def content(page: Page) -> dict[str, Any]:
    """What the page's scripts draw."""
    (text,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page.html, re.S)
    return dict(json.loads(text))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests of this file."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


class Shown:
    """A page in a browser, as its user has it.

    Args:
        tab: where it is.
    """

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        tab.wait_for("picture.complete && frame === 0")  # it is drawn

    def text(self, element: str) -> str:
        """The lines that an element shows."""
        lines = self.tab.run(f"return byId({element!r}).innerText").split("\n")
        return "\n".join(line.strip() for line in lines if line.strip())

    def slide(self, score: float) -> None:
        """Moves the slider to a score."""
        self.tab.run(f'byId("score").value = {score}; byId("score").dispatchEvent(new Event("input"))')

    def tick(self, rows: str, value: int) -> None:
        """Clicks a box of the legend."""
        self.tab.run(f"byId({rows!r}).querySelector('[value=\"{value}\"]').click()")

    def px(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the scene is in the window."""
        left, top = self.tab.run(f"return toScreen({x}, {y})")
        return left, top  # the map begins in the window's corner

    def click(self, x: float, y: float) -> str:
        """Clicks on a place of the scene; what is selected then."""
        self.tab.click(*self.px(x, y))
        return self.text("told")

    def press(self, *keys: str) -> str:
        """Presses keys; what is selected then."""
        self.tab.press(*keys)
        return self.text("told")

    @property
    def n_drawn(self) -> int:
        """How many boxes are drawn, or would be in a larger window."""
        return int(self.tab.run("return inOrder().length"))

    def pixels(self, xy: Sequence[tuple[float, float]]) -> np.ndarray:
        """The colours (N, 3) at places of the scene, as they are drawn."""
        script = f"""
            draw()
            const pen = canvas.getContext("2d")
            return {json.dumps([list(each) for each in xy])}.map(([x, y]) => {{
                const [left, top] = toScreen(x, y).map(Math.round)
                return [...pen.getImageData(left, top, 1, 1).data].slice(0, 3)
            }})
        """
        return np.array(self.tab.run(script), float)


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    """Opens a page; nothing may fail in it, and nothing is asked of any network."""
    opened: list[Shown] = []

    def show(page: Page, **size: int) -> Shown:
        path = page.save(tmp_path / f"page{len(opened)}.html")
        opened.append(Shown(browser.open(path, **size)))
        return opened[-1]

    yield show
    for number, each in enumerate(opened):
        assert each.tab.errors == []
        assert each.tab.requests == [(tmp_path / f"page{number}.html").as_uri()]


def test_counts_follow_the_slider(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND, TRUTH))
    told = []
    for score in (0, 0.7, 1):
        page.slide(score)
        told.append((page.text("counts").split("\n"), page.n_drawn))
    assert told == [
        # 3 of 4 detections are right, 3 of 4 labels found: and the fourth label is drawn too
        (
            [
                "4 labels: 3 found, 1 missed",
                "4 detections, 1 of them wrong",
                "Precision 75.0%, recall 75.0%, F1 75.0%",
            ],
            5,
        ),
        # from 0.7 on 2 of 2 are right and 2 of 4 labels are found: two labels are missed now
        (
            [
                "4 labels: 2 found, 2 missed",
                "2 detections, 0 of them wrong",
                "Precision 100.0%, recall 50.0%, F1 66.7%",
            ],
            4,
        ),
        (["4 labels: 0 found, 4 missed", "0 detections, 0 of them wrong", "Precision –, recall 0.0%, F1 0.0%"], 4),
    ]


def test_counts_are_those_of_compute_accuracy_at_any_score(scene: Path, shown: Callable[..., Shown]) -> None:
    rng = np.random.default_rng(5)
    places = rng.uniform(0, 56, (80, 2))
    truth = gpd.GeoDataFrame({"label": rng.choice(["a", "b"], 80)}, geometry=[square(*xy) for xy in places], crs=CRS)
    moved = [square(*xy) for xy in np.repeat(places, 2, axis=0) + rng.normal(0, 1.5, (160, 2))]
    scores = np.round(rng.random(160), 2)  # many on the slider's steps, where a rounded one would count as less
    found = gpd.GeoDataFrame({"label": truth["label"].repeat(2).to_numpy(), "score": scores}, geometry=moved, crs=CRS)
    page = shown(gd.view(scene, found, truth))
    for score in (0, 0.07, 0.29, 0.5, 0.57, 0.7, 0.93, 1):
        page.slide(score)
        table = gd.compute_accuracy(found[found["score"] >= score], truth).table
        for row, first in (("all", True), ("b", False)):
            if not first:
                page.tick("names", 0)
            counts = page.tab.run("return counted()")
            tp, fp, fn = table.loc[row, ["tp", "fp", "fn"]].astype(int)
            assert (counts["right"], counts["detections"], counts["labels"]) == (tp, tp + fp, tp + fn), (score, row)
        page.tick("names", 0)


def test_filters_choose_what_is_drawn_and_the_legend_counts(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND, TRUTH))
    page.slide(0)
    rows = [re.findall(r"^(\w+).*\n(\d+)$", page.text(part), re.M) for part in ("outcomes", "names")]
    assert rows == [[("right", "3"), ("wrong", "1"), ("missed", "1")], [("car", "3"), ("pool", "1")]]
    drawn = [page.n_drawn]
    for part, value in (("outcomes", 3), ("outcomes", 2), ("names", 1)):  # no missed, no wrong ones, no pools
        page.tick(part, value)
        drawn.append(page.n_drawn)
    assert drawn == [5, 4, 3, 2]
    for button, left in (("none", 0), ("all", 3)):
        page.tab.run(f"byId({button!r}).click()")
        assert page.n_drawn == left


def test_what_is_right_is_outlined_wrong_filled_and_missed_dashed(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND, TRUTH))
    page.slide(0)
    right, wrong, missed = page.pixels([(4, 4), (44, 44), (4, 44)])
    np.testing.assert_allclose([right, missed], GREY, atol=3)
    np.testing.assert_allclose(wrong, 0.45 * GREY + 0.55 * np.array([0xE6, 0x9F, 0x00]), atol=4)  # the first class
    solid, dashed = (page.pixels([(0.5 + k / 10, y) for k in range(70)]) for y in (8, 48))
    assert np.ptp(solid, axis=0).max() < 60
    white = dashed.min(axis=1) > 200
    assert 0.3 < white.mean() < 0.9
    assert np.count_nonzero(np.diff(white.astype(int))) > 6


def test_a_box_too_small_to_see_is_a_mark(tmp_path: Path, shown: Callable[..., Shown]) -> None:
    large = painted(tmp_path / "large.tif", Affine(1, 0, 1000, 0, -1, 2000), CRS, (4000, 4000))
    tiny = FOUND.assign(geometry=[square(500 * k + 500, 500, 1) for k in range(4)])
    page = shown(gd.view(large, tiny, tiny[:0]))
    page.slide(0)
    marks = page.pixels([(500 * k + 500.5, 500.5) for k in range(4)])
    assert (np.ptp(marks, axis=1) > 50).all()  # coloured, and not grey
    assert page.click(502, 500.5).startswith("car\nscore 0.900, wrong, 1.0 × 1.0 m")


def test_keys_step_through_boxes_by_score_and_say_what_is_selected(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND, TRUTH))
    page.slide(0)
    expected = [
        "car\nscore 0.900, right, 8.0 × 8.0 m\n1 of 5 shown",
        "pool\nscore 0.800, right, 8.0 × 8.0 m\n2 of 5 shown",
        "car\nscore 0.600, right, 8.0 × 8.0 m\n3 of 5 shown",
        "car\nscore 0.200, wrong, 8.0 × 8.0 m\n4 of 5 shown",
        "car\nlabel, missed, 8.0 × 8.0 m\n5 of 5 shown",
    ]
    assert [page.press("n") for _ in range(6)] == [*expected, expected[0]]
    assert [page.press("p") for _ in range(2)] == expected[:2:-1]
    assert page.tab.run("return [view.x, view.y]") == [44, 44]
    assert page.press("Escape") == ""
    assert page.press("p") == expected[-1]
    page.press("Escape", "?")
    assert page.tab.run("return byId('help').open")
    assert page.press("n") == ""  # of no effect behind the list of keys
    page.press("Escape")
    assert not page.tab.run("return byId('help').open")


def test_a_click_selects_the_smallest_box_and_again_the_next(scene: Path, shown: Callable[..., Shown]) -> None:
    found = gpd.GeoDataFrame(
        {"label": ["yard", "car"], "score": [0.9, 0.8]}, geometry=[square(10, 10, 30), square(20, 20, 3)], crs=CRS
    )
    page = shown(gd.view(scene, found))
    car, yard = "car\nscore 0.800, 3.0 × 3.0 m\n2 of 2 shown", "yard\nscore 0.900, 30.0 × 30.0 m\n1 of 2 shown"
    clicked = [page.click(*at) for at in ((21, 21), (21, 21), (21, 21), (12, 12), (60, 60))]
    assert clicked == [car, yard, car, yard, ""]
    page.tab.point(*page.px(12.4, 32.6))
    assert page.text("tip") == "yard: score 0.900, 30.0 × 30.0 m"
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(1012.4, 1967.4)
    assert page.text("pointer") == f"EPSG:32645: 1,012 / 1,967\n{lat:.6f}° N, {lon:.6f}° E"


def test_dragging_moves_the_map_and_selects_nothing(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND))
    x, y = page.px(24, 4)
    page.tab.point(x, y, "mousePressed")
    for k in range(1, 6):
        page.tab.point(x - 10 * k, y + 6 * k, buttons=1)
    page.tab.point(x - 50, y + 30, "mouseReleased")
    np.testing.assert_allclose(page.px(24, 4), [x - 50, y + 30])
    assert page.text("told") == ""


def test_the_wheel_zooms_where_it_is_turned(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND))
    before, (x, y) = page.tab.run("return view.zoom"), page.px(10, 50)
    page.tab.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100)
    page.tab.wait_for(f"view.zoom > {before}")
    np.testing.assert_allclose(page.px(10, 50), [x, y])


def test_a_selected_box_that_is_filtered_out_is_deselected(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND))
    assert "0.200" in page.click(44, 44)
    page.slide(0.5)
    assert page.text("told") == ""


def test_zoom_stops_at_the_pixels_and_at_the_scene(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND))
    zooms = [page.tab.run("return view.zoom")]
    for keys in (["+"] * 20, ["-"] * 40, ["0"]):
        page.press(*keys)
        zooms.append(page.tab.run("return view.zoom"))
    whole = zooms[0]
    assert zooms == [whole, 24, pytest.approx(whole / 2), whole]


def test_arrow_keys_move_the_map_but_beside_it_the_slider(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND))
    page.press("+", "+", "ArrowRight", "ArrowDown")
    assert page.tab.run("return [view.x - 32, view.y - 32].map(each => each * view.zoom)") == pytest.approx([80, 80])
    page.press(*["ArrowLeft"] * 12)
    assert page.tab.run("return view.x") == 0
    page.tab.run("byId('score').focus()")
    page.press("ArrowRight")
    assert page.tab.run("return [view.x, chosen.score]") == [0, 0.01]


def test_all_controls_are_reached_by_the_tabulator_and_named(scene: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(scene, FOUND, TRUTH))
    nodes = page.tab.send("Accessibility.getFullAXTree")["nodes"]
    named = [(each["role"]["value"], each.get("name", {}).get("value", "")) for each in nodes if "role" in each]
    controls = [each for each in named if each[0] in ("button", "checkbox", "slider", "application", "searchbox")]
    assert len(controls) >= 15
    assert all(name for _, name in controls)
    assert ("application", "Map of scene.tif") in controls
    assert ("slider", "Score at least") in {(role, name[:14]) for role, name in controls}
    live = {each["role"]["value"] for each in nodes if "live" in {p["name"] for p in each.get("properties", ())}}
    assert "status" in live
    seen = set()
    for _ in range(20):
        page.press("Tab")
        seen.add(page.tab.run("const e = document.activeElement; return e.id || e.value || e.dataset.key || e.tagName"))
    assert {"map", "+", "-", "0", "?", "n", "p", "score", "1", "2", "3", "all", "none"} <= seen


GRIDS = {
    "utm": (CRS, Affine(0.5, 0, 350_000, 0, -0.5, 3_050_000)),
    "utm of 100 km": (CRS, Affine(250, 0, 350_000, 0, -250, 3_050_000)),
    "rotated": (CRS, Affine.translation(350_000, 3_050_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)),
    "south-up": (CRS, Affine(0.5, 0, 350_000, 0, 0.5, 3_050_000)),
    "degrees": ("EPSG:4326", Affine(5e-6, 0, 85.52, 0, -5e-6, 60.63)),
    "over the date line": ("EPSG:4326", Affine(0.01, 0, 178, 0, -0.01, -16)),
    "mercator": ("EPSG:3857", Affine(0.5, 0, 9_520_000, 0, -0.5, 8_500_000)),
    "feet": ("EPSG:2263", Affine(2, 0, 980_000, 0, -2, 200_000)),
    "pole": ("EPSG:3413", Affine(1000, 0, -200_000, 0, -1000, 150_000)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_places_sizes_scale_and_north_are_true_on_any_grid(
    name: str, tmp_path: Path, shown: Callable[..., Shown]
) -> None:
    crs, transform = GRIDS[name]
    shape = 300, 400
    grid = Grid(shape, transform, ProjCRS.from_user_input(crs), name)
    corners = grid.to_map(np.array([[200.0, 150], [220, 150], [220, 160], [200, 160]]))
    found = gpd.GeoDataFrame({"label": ["box"], "score": [0.5]}, geometry=[shapely.Polygon(corners)], crs=crs)
    page = shown(gd.view(painted(tmp_path / "scene.tif", transform, crs, shape), found))
    width_m, height_m = grid.pixel_sides_m

    # Longitude and latitude to within a tenth of a pixel of PROJ's.
    xy = np.random.default_rng(3).uniform(0, 1, (50, 2)) * shape[::-1]
    lon, lat = np.array(page.tab.run(f"return {xy.tolist()}.map(([x, y]) => [ground(x, y).lon, ground(x, y).lat])")).T
    lon = np.where((crs == "EPSG:4326") & (lon < 0), lon + 360, lon)
    back = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    np.testing.assert_allclose(grid.to_pixel(np.column_stack(back.transform(lon, lat))), xy, atol=0.1)

    told = page.press("n")
    page.tab.wait_for("frame === 0")  # it is drawn
    sides = [float(side) for side in re.findall(r"[\d.]+(?= [×km])", told)]
    assert np.multiply(sides, 1000 if " km" in told else 1) == pytest.approx(
        [20 * width_m, 10 * height_m], rel=0.01, abs=0.05
    )
    length, unit = page.text("length").split()
    bar = page.tab.run("return byId('bar').getBoundingClientRect().width / view.zoom")
    assert bar * width_m == pytest.approx(float(length) * (1000 if unit == "km" else 1), rel=0.01)
    across, down = np.subtract(page.px(*shape[::-1]), page.px(0, 0))
    assert across / down == pytest.approx(400 * width_m / (300 * height_m))
    (x, y), turned = grid.north, page.tab.run("return byId('north').firstElementChild.style.rotate")
    assert float(turned.removesuffix("rad")) == pytest.approx(np.arctan2(x, -y * height_m / width_m), abs=1e-5)


def test_without_a_crs_all_is_in_pixels(plain: Path, shown: Callable[..., Shown]) -> None:
    page = shown(gd.view(plain, gpd.GeoDataFrame({"score": [0.5]}, geometry=[box(10, 20, 14, 28)])))
    assert page.press("n") == "object\nscore 0.500, 4 × 8 pixels\n1 of 1 shown"
    assert page.text("where") == "pixel 12.0, 24.0"
    page.tab.point(*page.px(1.4, 2.6))
    assert page.text("pointer") == "pixel 1.4, 2.6"
    assert page.text("length").endswith(" pixels")
    assert page.tab.run("return byId('north').checkVisibility()") is False


STRANGE = ['"big" <b>', "O'Neil & </script><script>alert(1)</script>", "🚗", "汽车", "x" * 90, "${1} $name <!--"]


def test_names_are_text_whatever_they_hold(tmp_path: Path, shown: Callable[..., Shown]) -> None:
    scene = painted(tmp_path / "we<i>rd & 图.tif", Affine(1, 0, 1000, 0, -1, 2000), CRS)
    found = gpd.GeoDataFrame(
        {"label": STRANGE, "score": 0.5}, geometry=[square(9 * k, 9) for k in range(len(STRANGE))], crs=CRS
    )
    page = shown(gd.view(scene, found))
    names = page.tab.run("return [...document.querySelectorAll('#names span')].map(each => each.textContent)")
    assert names == sorted(STRANGE)
    assert page.tab.run("return document.querySelector('h1').textContent") == "we<i>rd & 图.tif"
    assert page.tab.run("return document.title") == "we<i>rd & 图.tif in geodetect"
    assert page.tab.run("return document.querySelectorAll('script').length") == 2
    assert page.tab.run("return document.documentElement.scrollWidth - innerWidth") == 0
    assert page.press("n").split("\n")[0] in STRANGE


def test_two_hundred_classes_can_be_searched(scene: Path, shown: Callable[..., Shown]) -> None:
    names = [f"class {k:03}" for k in range(200)]
    places = [square(k % 50, k // 4) for k in range(200)]
    page = shown(gd.view(scene, gpd.GeoDataFrame({"label": names, "score": 0.5}, geometry=places, crs=CRS)))
    page.tab.run("byId('filter').focus()")
    page.tab.send("Input.insertText", text="CLASS 01")
    assert page.text("names").count("class") == 10
    assert page.press("n") == ""  # a letter of the search
    page.tab.run("byId('none').click()")
    assert page.n_drawn == 200  # none of which is listed


@pytest.mark.parametrize("width", [320, 390, 700])
def test_a_narrow_window_has_the_map_above_and_nothing_beside(
    scene: Path, shown: Callable[..., Shown], width: int
) -> None:
    page = shown(gd.view(scene, FOUND, TRUTH), width=width)
    page.press("n")
    script = """
        const map = canvas.getBoundingClientRect(), panel = document.querySelector("aside").getBoundingClientRect()
        const over = byId("chosen").getBoundingClientRect().right - map.right
        return [map.left, map.width - document.documentElement.clientWidth, panel.top - map.bottom, over]
    """
    left, wider, below, over = page.tab.run(script)
    assert (left, wider) == (0, 0)
    assert below >= 0
    assert over < 0
    assert page.tab.run("return document.documentElement.scrollWidth <= innerWidth")


def test_twenty_thousand_boxes_are_shown_and_moved(tmp_path: Path, shown: Callable[..., Shown]) -> None:
    large = painted(tmp_path / "large.tif", Affine(1, 0, 1000, 0, -1, 2000), CRS, (2000, 2000))
    rng = np.random.default_rng(0)
    places, scores = rng.uniform(0, 1990, (20_000, 2)), rng.random(20_000)
    found = gpd.GeoDataFrame(
        {"label": rng.choice(["a", "b"], 20_000), "score": scores}, geometry=[square(*xy) for xy in places], crs=CRS
    )
    page = gd.view(large, found)
    assert len(page.html) < 2_000_000
    seen = shown(page)
    seen.press("+")
    # While the map moves the last drawing moves with it; once it rests it is as if drawn anew.
    at = [tuple(each) for each in rng.uniform(600, 1400, (300, 2))]
    before = seen.pixels(at)
    seen.tab.run("pan(40, 20); drawMoved()")
    script = """
        const pen = canvas.getContext("2d")
        return PLACES.map(([x, y]) => [...pen.getImageData(...toScreen(x, y).map(Math.round), 1, 1).data].slice(0, 3))
    """
    moved = np.array(seen.tab.run(script.replace("PLACES", json.dumps(at))))
    assert np.mean(np.abs(moved - before).max(axis=1) < 40) > 0.9
    assert np.mean(np.abs(seen.pixels(at) - before).max(axis=1) < 40) > 0.9
    seen.slide(0.5)
    assert seen.text("counts") == f"{int((scores >= 0.5).sum()):,} detections"


def test_a_page_needs_nothing_from_elsewhere(scene: Path) -> None:
    page = gd.view(scene, FOUND, TRUTH).html
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=(?!\"data:)", page) == []
    assert "default-src 'none'" in page
    assert "data:image/jpeg;base64," in page
    assert "scene.tif" in page


def test_boxes_lie_where_the_features_do_in_any_crs(scene: Path) -> None:
    expected = [[0, 0, 8, 8], [20, 0, 28, 8], [40, 0, 48, 8], [40, 40, 48, 48]]
    assert content(gd.view(scene, FOUND))["boxes"]["outline"] == expected
    moved = content(gd.view(scene, FOUND.to_crs(4326)))["boxes"]["outline"]
    bounds = [[min(each[::2]), min(each[1::2]), max(each[::2]), max(each[1::2])] for each in moved]
    np.testing.assert_allclose(bounds, expected, atol=0.1)


def test_outlines_are_those_of_the_features(scene: Path) -> None:
    triangle = shapely.Polygon([(1000, 2000), (1008, 2000), (1000, 1992)])
    parts = shapely.MultiPolygon([square(10, 10, 2), square(20, 10, 2)])
    shapes = FOUND[:3].assign(geometry=[triangle, parts, square(30, 30).centroid.buffer(10, quad_segs=64)])
    corners, envelope, circle = content(gd.view(scene, shapes))["boxes"]["outline"]
    assert sorted(zip(corners[::2], corners[1::2], strict=True)) == [(0, 0), (0, 8), (8, 0)]
    assert envelope == [10, 10, 22, 12]
    assert 16 <= len(circle) <= 64  # of 512 numbers, to within a quarter of a pixel


@pytest.mark.parametrize("shape", [(1, 1), (1, 70_000), (70_000, 1)])
def test_the_picture_is_no_longer_than_asked_for_however_narrow_the_scene(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    strip = painted(tmp_path / "strip.tif", Affine(1, 0, 1000, 0, -1, 2000), CRS, shape)
    held = content(gd.view(strip, FOUND, max_side=500))
    assert 1 <= max(held["scene"]["picture"]) <= 1000
    assert [held["scene"][side] for side in ("height", "width")] == list(shape)


def test_it_begins_at_the_score_with_the_best_f1(scene: Path) -> None:
    # F1 is 6/7 from 0.6 on: three are found, all right, of four
    assert content(gd.view(scene, FOUND, TRUTH))["best_score"] == 0.6
    assert content(gd.view(scene, FOUND))["best_score"] is None
    assert content(gd.view(scene, FOUND[:0], TRUTH))["best_score"] is None


def test_polygons_are_compared_where_that_is_asked_for(scene: Path) -> None:
    # A square and itself turned by 45 degrees have an IoU of 0.71, their envelopes one of 0.5.
    turned = FOUND.set_geometry(FOUND.rotate(45))
    with pytest.warns(UserWarning, match='shape="polygon"'):
        envelopes = content(gd.view(scene, turned, TRUTH, match_iou=0.7))
    polygons = content(gd.view(scene, turned, TRUTH, match_iou=0.7, shape="polygon"))
    assert [each["boxes"]["kind"].count(1) for each in (envelopes, polygons)] == [0, 2]  # one label lies 1 m beside


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".kml"])
def test_a_file_of_no_detections_is_a_page_too(scene: Path, tmp_path: Path, suffix: str) -> None:
    path = Path(write_features(FOUND[:0], tmp_path / f"none{suffix}"))
    assert content(gd.view(scene, path))["classes"] == []
    assert content(gd.view(scene, path, TRUTH))["boxes"]["kind"] == [3, 3, 3, 3]
    assert content(gd.view(scene, FOUND, TRUTH[:0]))["boxes"]["kind"] == [2, 2, 2, 2]


def test_features_without_a_place_or_a_class_harm_nobody(scene: Path) -> None:
    odd = FOUND.assign(label=["car", None, "pool", "car"])
    odd.loc[0, "geometry"] = None
    held = content(gd.view(scene, odd))
    assert [held["classes"][k]["name"] for k in held["boxes"]["class"]] == ["no class", "pool", "car"]


def test_what_cannot_be_shown_is_said(scene: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="There is no file"):
        gd.view(tmp_path / "none.tif", FOUND)
    with pytest.raises(LabelsError, match="There is no file"):
        gd.view(scene, tmp_path / "none.gpkg")
    for side in (0, 65_501, 2.5, "2048", None):
        with pytest.raises(ArgumentError, match=rf"1 to 65,500 pixels; got {side!r}"):
            gd.view(scene, FOUND, max_side=side)
    with pytest.raises(LabelsError, match=r"none of .* lies on scene\.tif"):
        gd.view(scene, FOUND.set_geometry(FOUND.translate(500, 0)))
    with pytest.raises(LabelsError, match="type Point"):
        gd.view(scene, FOUND.set_geometry(FOUND.centroid))
    with pytest.raises(NotGeoreferenced, match=r"no coordinate reference system.*scene\.tif"):
        gd.view(scene, FOUND.set_crs(None, allow_override=True))
    with pytest.raises(NotGeoreferenced, match=r"plain\.tif has no transform"):
        gd.view(plain, FOUND)


@pytest.mark.parametrize("score", ["high", float("inf"), None])
def test_a_score_that_is_no_number_is_refused(scene: Path, score: object) -> None:
    for labels in (None, TRUTH):
        with pytest.raises(LabelsError, match=r"4 detections.*score"):
            gd.view(scene, FOUND.assign(score=[score] * 4), labels)


def test_a_notebook_stores_the_page_once(scene: Path) -> None:
    page = gd.view(scene, FOUND)
    shown, _ = DisplayFormatter().format(page)
    assert escape(page.html) in shown["text/html"]
    assert len(shown["text/plain"]) < 100
    assert set(shown) == {"text/plain", "text/html"}


def test_a_saved_page_is_whole_or_the_old_one_stays(tmp_path: Path) -> None:
    path = Page("old").save(tmp_path / "page.HTML")
    assert Page("<p>é</p>").save(str(path)).read_bytes() == "<p>é</p>".encode()
    with pytest.raises(OutputError, match=r"page\.HTML cannot be written"):
        Page("new \udcff").save(path)
    assert path.read_text("utf-8") == "<p>é</p>"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match=r"saved as \.html; got page\.txt"):
        Page("").save(tmp_path / "page.txt")
    with pytest.raises(OutputError, match=r"no folder .*missing"):
        Page("").save(tmp_path / "missing" / "page.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        Page("").save(tmp_path / "folder.html")


def test_what_nobody_knows_of_a_place_is_none() -> None:
    plain = describe_scene(Grid((10, 20), None, None, "plain"))
    assert [plain[name] for name in ("transform", "crs", "sides_m", "north", "places")] == [None] * 5
    moon = describe_scene(
        Grid((10, 20), Affine(10, 0, 0, 0, -10, 0), ProjCRS.from_user_input("IAU_2015:30110"), "moon")
    )
    assert moon["sides_m"] == pytest.approx([10, 10], rel=0.01)
    assert {row[0] for row in moon["places"]} == {None}
