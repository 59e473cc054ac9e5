"""Which file an address means, and what of a URL is shown: never what signs it."""

from __future__ import annotations

import json
import logging
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
from click.testing import CliRunner

import geodetect as gd
from geodetect.addresses import expand_user, glob_files, identity, name_of, redact
from geodetect.boxes import Boxes
from geodetect.cli.main import main
from geodetect.errors import ArgumentError, GeodetectError, RasterError
from geodetect.grid import Grid
from geodetect.vector.writers import write_features
from tests.fakes import CLASSES, SHAPE, TRUTH, UPRIGHT, UTM, PaintDetector, outlines, painted, write_raster
from tests.http_server import Served, served

AMAZON = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=SECRET%2F20240101&X-Amz-Signature=SECRET"
AZURE = "sv=2021-06-08&se=2024-01-01T00%3A00%3A00Z&sr=b&sp=r&sig=SECRET%3D"
GOOGLE = "X-Goog-Credential=SECRET&X-Goog-Expires=3600&X-Goog-Signature=SECRET"
CLOUDFRONT = "Expires=17&Signature=SECRET~&Key-Pair-Id=SECRET&Policy=SECRET"
OTHERS = [f"{name}=SECRET" for name in ("token", "access_token", "api_key", "apikey", "key", "subscription-key", "jwt")]
SIGNED = [AMAZON, AZURE, GOOGLE, CLOUDFRONT, "OSSAccessKeyId=SECRET&security-token=SECRET", "q-ak=SECRET", *OTHERS]


@pytest.mark.parametrize("query", SIGNED)
@pytest.mark.parametrize(
    "form", ["https://h.org/a/x.tif?{}", "/vsicurl/https://h.org/a/x.tif?{}", "az://c/x.tif?v=2&{}"]
)
def test_what_signs_a_url_is_not_shown_nor_compared(form: str, query: str) -> None:
    url = form.format(query)
    assert name_of(url) == "x.tif"
    for shown in (redact(url), redact(f"'{url}' is not there"), identity(url), str(RasterError(f"{url} is gone"))):
        assert "SECRET" not in shown
        assert "x.tif" in shown
    assert identity(url) == identity(url.replace("SECRET", "OTHER").replace("2024", "2025"))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://user:SECRET@h.org/a/x.tif", "x.tif"),
        ("/vsicurl?max_retry=3&url=https%3A%2F%2Fh.org%2Fx.tif%3Fsig%3DSECRET", "x.tif"),
        ("/vsizip//vsicurl/https://h.org/z.zip?sig=SECRET", "z.zip"),
        ("https://h.org/?sig=SECRET", "h.org"),
        ("s3://bucket/x.tif", "x.tif"),
        ("PG:dbname=x user=y password=SECRET", "PG:dbname=x user=y password=..."),
        ("<VRTDataset><SourceFilename>/vsicurl/https://h/x.tif?sig=SECRET</SourceFilename>", "a virtual raster"),
        ("maps/x.tif", "x.tif"),
    ],
)
def test_names_hold_no_secret(address: str, name: str) -> None:
    assert name_of(address) == name
    assert "SECRET" not in redact(address).replace("%3DSECRET", "")


@pytest.mark.parametrize("query", ["ticket=SECRET", "connectid=SECRET&v=1", "SECRET", "k%3DSECRET"])
def test_a_query_is_not_shown_where_only_the_last_part_of_its_url_is(query: str) -> None:
    assert redact(f"town.tif?{query}, band 1: failed").split() == ["town.tif", "band", "1:", "failed"]
    for question in ("is it town.tif? yes, what? no", "no town.tif (is it Town.tif?); see", "is it 'a/b.tif?'"):
        assert redact(question) == question


def test_what_may_name_the_file_is_compared() -> None:
    assert identity("https://h.org/get?id=1&sig=a") != identity("https://h.org/get?id=2&sig=a")
    assert identity("https://a.org/x.tif") != identity("https://b.org/x.tif")


def test_a_name_that_only_looks_like_a_url_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.tif?sig=1").touch()
    assert name_of("x.tif?sig=1") == "x.tif?sig=1"
    assert name_of(".") == tmp_path.name


def test_home_is_meant_where_no_file_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_user("~/x.tif") == "/home/me/x.tif"
    assert expand_user("~nobody-of-this-name.tif") == "~nobody-of-this-name.tif"
    Path("~").mkdir()
    Path("~/x.tif").touch()
    assert expand_user(Path("~/x.tif")) == "~/x.tif"


def test_a_pattern_is_one_only_where_no_folder_has_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "tiles [a]" / "*"
    folder.mkdir(parents=True)
    for name in ("b.tif", "a.tif", "[c].tif", "d.txt"):
        (folder / name).touch()
    assert glob_files(f"{folder}/*.tif") == [f"{folder}/{name}" for name in ("[c].tif", "a.tif", "b.tif")]
    assert glob_files(f"{folder}/[ab].tif") == [f"{folder}/{name}" for name in ("a.tif", "b.tif")]
    assert glob_files(f"{folder}/nothing.tif") == []


def test_messages_can_be_printed_whatever_the_name() -> None:
    assert str(RasterError("a\udcff.tif is gone")) == r"a\udcff.tif is gone"


# Signed rasters and vector files, from one end to the other


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("site")
    write_raster(folder / "town.tif", painted(), Grid(SHAPE, UPRIGHT, UTM))
    write_features(_labels(), folder / "roofs.gpkg")
    shutil.copy(folder / "roofs.gpkg", folder / "broken.gpkg")
    (folder / "broken.gpkg").write_bytes(b"SQLite format 3\0 and no more")
    (folder / "broken.tif").write_bytes((folder / "town.tif").read_bytes()[:20_000])
    with served(folder) as site:
        yield site


def _labels() -> gpd.GeoDataFrame:
    polygons = shapely.transform(outlines(TRUTH.xyxy.tolist()), Grid(SHAPE, UPRIGHT, UTM).to_map)
    return gpd.GeoDataFrame({"label": [CLASSES[k] for k in TRUTH.labels]}, geometry=polygons, crs=UTM)


def _signed(site: Served, name: str, signature: str = "SECRET") -> str:
    return f"{site(name)}?X-Amz-Date=1&X-Amz-Signature={signature}&id=7"


def _holds_secret(folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and b"SECRET" in file.read_bytes()]


def test_a_signature_is_in_no_file_and_no_frame(site: Served, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    town, roofs = _signed(site, "town.tif"), _signed(site, "roofs.gpkg")
    outputs = [out / f"found{suffix}" for suffix in (".gpkg", ".parquet", ".geojson", ".fgb", ".kml", ".csv", ".shp")]
    gd.detect_objects(town, PaintDetector(), outputs, aoi=roofs, progress=False)
    found = gd.detect_objects(town, PaintDetector(), progress=False)
    assert found.attrs["raster"] == "town.tif"
    assert "SECRET" not in json.dumps(found.attrs)
    gd.compute_accuracy(found, roofs).save(out / "score.html")
    page = gd.view(town, found, roofs)
    assert "SECRET" not in page.html
    page.save(out / "map.html")
    with pytest.warns(UserWarning, match=r"^9 objects of 2 classes from roofs\.gpkg"):
        gd.export_training_data(town, roofs, out / "chips", chip_size=64, progress=False)
    data = gd.prepare_data(town, roofs, chip_size=64, num_workers=0)
    assert "SECRET" not in data.report + repr(data)
    assert data.classes == sorted(CLASSES)
    assert _holds_secret(out) == []


class _Stops(PaintDetector):
    """Stops after the first strips."""

    n = 0

    def detect(self, pixels: Any) -> list[Boxes]:
        type(self).n += 1
        if type(self).n > 8:
            raise KeyboardInterrupt
        return super().detect(pixels)


def test_a_run_that_is_signed_anew_goes_on_and_another_file_does_not(site: Served, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def run(url: str, model: Any) -> Any:
        return gd.detect_objects(url, model, out / "found.gpkg", batch_size=1, resume=True, progress=False)

    _Stops.n = 0
    with pytest.raises(KeyboardInterrupt):
        run(_signed(site, "town.tif"), _Stops())
    assert list(out.glob("found.journal/strip-*"))
    assert _holds_secret(out) == []
    with pytest.raises(ArgumentError, match="was begun with raster_parts"):
        run(_signed(site, "town.tif").replace("id=7", "id=8"), _Stops())
    _Stops.n = -100
    assert run(_signed(site, "town.tif", "ANOTHER"), _Stops()).exists()


def _refused(call: Callable[[], object]) -> str:
    """What is shown of a call that fails: message and traceback."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(GeodetectError) as caught:
            call()
    return "".join([*traceback.format_exception(caught.value), *(str(each.message) for each in told)])


def test_errors_and_their_causes_show_no_signature(site: Served, tmp_path: Path) -> None:
    gone, broken = _signed(site, "gone.tif"), _signed(site, "broken.tif")
    labels = _labels()
    item = tmp_path / "item.json"
    asset = {"href": gone, "type": "image/tiff"}
    item.write_text(json.dumps({"type": "Feature", "stac_version": "1.0.0", "id": "i", "assets": {"a": asset}}))
    for call in (
        lambda: gd.detect_objects(gone, PaintDetector(), progress=False),
        lambda: gd.detect_objects(broken, PaintDetector(), tmp_path / "found.gpkg", progress=False),
        lambda: gd.detect_objects([gone, broken], PaintDetector(), progress=False),
        lambda: gd.detect_objects(item, PaintDetector(), progress=False),
        lambda: gd.detect_objects(_signed(site, "gone.json"), PaintDetector(), progress=False),
        lambda: gd.detect_objects("https://h.org/a b.json?sig=SECRET", PaintDetector(), progress=False),
        lambda: gd.detect_objects(_signed(site, "town.tif"), PaintDetector(), aoi=_signed(site, "x"), progress=False),
        lambda: gd.detect_objects(_signed(site, "town.tif"), _signed(site, "gone.safetensors"), progress=False),
        lambda: gd.detect_objects(_signed(site, "town.tif"), PaintDetector(), _signed(site, "x.gpkg"), progress=False),
        lambda: gd.compute_accuracy(labels, _signed(site, "gone.gpkg")),
        lambda: gd.compute_accuracy(_signed(site, "broken.gpkg"), labels),
        lambda: gd.prepare_data(gone, labels, chip_size=64),
        lambda: gd.export_training_data(gone, labels, tmp_path / "chips", chip_size=64),
        lambda: gd.view(gone, labels),
        lambda: gd.show(gone),
        lambda: gd.compute_accuracy(labels, "PG:host=127.0.0.1 port=1 user=me password=SECRET"),
    ):
        shown = _refused(call)
        # The lines of this test, which name the word themselves, are not what is looked for.
        assert [line for line in shown.splitlines() if "SECRET" in line and "lambda:" not in line] == []


def test_the_command_line_shows_no_signature(site: Served) -> None:
    for name in ("town.tif", "roofs.gpkg", "gone.tif", "broken.gpkg"):
        assert "SECRET" not in CliRunner().invoke(main, ["info", _signed(site, name)]).output


def test_logs_show_no_query(site: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("town.tif", "broken.tif", "gone.tif", "roofs.gpkg"):
        with suppress(RasterError):
            gd.detect_objects(f"{site(name)}?ticket=SECRET", PaintDetector(), progress=False)
    assert "town.tif" in caplog.text
    assert "SECRET" not in caplog.text
