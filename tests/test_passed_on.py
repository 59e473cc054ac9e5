"""Files that people open, mail and save again in other programs: spreadsheets, Google Earth, phones, macOS."""

from __future__ import annotations

import re
import unicodedata
from codecs import BOM_UTF8
from pathlib import Path
from zipfile import ZipFile

import geopandas as gpd
import pandas as pd
import pytest
import shapely

import geodetect as gd
from geodetect.vector.classes import warn_of_similar_names
from geodetect.vector.opening import open_features
from geodetect.vector.writers import write_features
from tests.browser import CHROMIUM, Browser
from tests.fakes import UTM


def features(*labels: str) -> gpd.GeoDataFrame:
    """A row of squares of these classes, with scores."""
    squares = [shapely.box(10 * n, 0, 10 * n + 5, 5) for n in range(len(labels))]
    scores = [0.9 - n / 64 for n in range(len(labels))]
    return gpd.GeoDataFrame({"label": labels, "score": scores}, geometry=squares, crs=UTM)


@pytest.mark.parametrize(("late", "mark"), [("Gebäude", BOM_UTF8), ("car", b"")])
def test_tables_with_foreign_letters_begin_as_excel_needs_it(tmp_path: Path, late: str, mark: bytes) -> None:
    frames = [features("car"), features("car", late)]
    found = write_features(iter(frames), tmp_path / "found.csv")
    table = gd.compute_accuracy(frames[1], frames[1]).save(tmp_path / "accuracy.csv")
    for path, column in ((found, "label"), (table, "class")):
        written = path.read_bytes()
        assert written.startswith(mark + column.encode())
        assert written.count(BOM_UTF8) == len(mark) // len(BOM_UTF8)
        assert late in pd.read_csv(path)[column].tolist()
    assert open_features(found).frame["label"].tolist() == ["car", "car", late]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["accuracy.csv", "found.csv"]


def test_a_kmz_keeps_the_columns_of_its_kml(tmp_path: Path) -> None:
    kml = write_features(features("car", "pool"), tmp_path / "found.kml")
    with ZipFile(tmp_path / "found (1).kmz", "w") as archive:
        archive.write(kml, "doc.kml")
    back = open_features(tmp_path / "found (1).kmz").frame
    assert back["label"].tolist() == ["car", "pool"]
    assert back["score"].tolist() == features("car", "pool")["score"].tolist()


def test_names_that_look_the_same_are_told_apart() -> None:
    composed, apart = (unicodedata.normalize(form, "Gebäude") for form in ("NFC", "NFD"))
    with pytest.warns(UserWarning, match="count as several classes") as told:
        warn_of_similar_names([composed, apart])
    assert str(told[0].message).isascii()  # two names that print alike would tell nothing
    mapping = re.search(r"class_mapping=(\{.*?\})", str(told[0].message))
    assert mapping is not None
    assert mapping[1] == ascii({composed: apart})


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_of_many_classes_fits_a_phone(tmp_path: Path) -> None:
    many = features(*(f"building of the kind number {n}" for n in range(20)))
    path = gd.compute_accuracy(many, many).save(tmp_path / "accuracy.html")
    with Browser(tmp_path / "profile") as browser:
        tab = browser.open(path, 390, 844)
        assert tab.run("return document.documentElement.scrollWidth") <= 390
        # The tables are wider, and scroll by themselves.
        assert tab.run("return [...document.querySelectorAll('.wide')].every((box) => box.scrollWidth > 390)")
    assert 'name="viewport" content="width=device-width' in path.read_text(encoding="utf-8")
