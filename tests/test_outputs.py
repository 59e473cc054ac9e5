"""Names of files: each works exactly there, or is refused before any work, and nothing is written anywhere else."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import pytest
import shapely

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.chips.outdir import OutDir
from geodetect.errors import ArgumentError, GeodetectError, OutputError
from geodetect.grid import Grid, Window
from geodetect.locks import hold
from geodetect.raster import RasterReader
from geodetect.vector.opening import open_features
from geodetect.vector.outputs import SUFFIXES, check_output
from geodetect.vector.writers import write_features
from tests.fakes import SHAPE, TRUTH, UPRIGHT, UTM, PaintDetector, painted, write_raster

ODD = [
    *("a!b", "!b", "a;b", "a?b", "a?", "a%20b", "a#b", "a|layername=q", "a:b", "http:b", "s3:b", "zip:b", "GPKG:b"),
    *(" b", "b ", "b.", "-b", "~b", "~", "$HOME", "a\nb", "a\tb", "a,b", "a{b}c", "<b>", "é船", "a'b", 'a"b', "a*b"),
    *("(draft)", "[2024] cars", "gpkg_x", "GPKG", "sqlite_x", "searched", "Layer_Styles", "a.b", "a.gpkg", "CON"),
    *("a.zip!b", "a=b&c", "a\\b", "@x", "..a", "a..", "x" * 247),
]
COMING_BACK = ["a\tb", "a\nb", "é" * 127, "<a&b>", "'\"", "]]>", "a,b;c", "\U0001f600", "\x85", "1.0"]
WHOLE = Window(0, 0, SHAPE[1], SHAPE[0])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_raster(tmp_path / "scene.tif", painted(), Grid(SHAPE, UPRIGHT, UTM))


def _features(n: int = 1) -> gpd.GeoDataFrame:
    polygons = shapely.box(353_000 + 10 * shapely.get_x(shapely.points(range(n), 0)), 3_057_000, 353_099, 3_057_004)
    return gpd.GeoDataFrame({"label": ["car"] * n, "score": [0.5] * n}, geometry=polygons, crs=UTM)


def _names() -> set[str]:
    return {str(path.relative_to(Path.cwd())) for path in Path.cwd().rglob("*")}


class _Counts(PaintDetector):
    """Counts the windows that it is shown."""

    n = 0

    def detect(self, pixels: Any) -> list[Boxes]:
        type(self).n += len(pixels)
        return super().detect(pixels)


# Written under the name that was asked for


def _made(path: Path, before: set[str]) -> None:
    """Passes if the file is there, can be read, and nothing else is but what begins as its name does; removes it."""
    new = _names() - before
    assert os.path.relpath(path) in new
    assert {os.path.relpath(each, path.parent)[: len(path.stem)] for each in new} == {path.stem}
    assert len(open_features(path).frame) > 0
    for each in new:
        os.remove(each)


@pytest.mark.parametrize("name", ODD)
def test_every_name_works_exactly_there(scene: Path, name: str) -> None:
    folder = Path(f"maps {name}")
    folder.mkdir()
    before = _names()
    for number, suffix in enumerate(SUFFIXES):
        path = Path(f"{name}{suffix}") if number % 2 else folder / f"{name}{suffix}"
        assert write_features(_features(), str(path)) == path
        _made(path, before)
    _made(Path(str(gd.detect_objects(scene, PaintDetector(), f"./{name}.gpkg", progress=False))), before)


def test_a_file_of_a_similar_name_is_left_alone(scene: Path) -> None:
    Path("old").mkdir()
    own = write_features(_features(2), "old/roofs.gpkg")
    Path("found.geojson").write_text("MY OWN FILE")
    gd.detect_objects(scene, PaintDetector(), "!found.geojson", progress=False)
    assert Path("found.geojson").read_text() == "MY OWN FILE"
    with pytest.raises(GeodetectError, match=r"There is no file !old/roofs\.gpkg"):
        open_features("!old/roofs.gpkg")
    Path("!old").mkdir()
    write_features(_features(1), "!old/roofs.gpkg")
    assert len(open_features("!old/roofs.gpkg").frame) == 1
    assert len(open_features(own).frame) == 2


@pytest.mark.filterwarnings("ignore:(?s).*show the same ground")  # as two names of one file do
@pytest.mark.parametrize("name", ODD)
def test_every_name_is_read_literally(scene: Path, name: str) -> None:
    Path(f"{name}.tif").write_bytes(scene.read_bytes())
    Path(f"{name}2.tif").write_bytes(scene.read_bytes())
    folder = Path(f"tiles {name}")
    folder.mkdir()
    (folder / "a.tif").write_bytes(scene.read_bytes())
    here = f"{name}.tif"
    for raster in (here, Path(here), f"./{here}", os.path.abspath(here), [here, f"{name}2.tif"], folder, f"{folder}/*"):
        with RasterReader(raster) as reader:
            assert (reader.read(WHOLE)[0] == painted()).all()


def test_what_is_no_name_in_utf_8_is_refused_before_any_work(scene: Path) -> None:
    before = _names()
    for name in ("a\udcff.gpkg", "a\0.gpkg", "x" * 260 + ".gpkg", "x" * 250 + ".shp"):
        _Counts.n = 0
        with pytest.raises(OutputError) as caught:
            gd.detect_objects(scene, _Counts(), name, progress=False)
        assert str(caught.value).isprintable()
        assert (_Counts.n, _names()) == (0, before)


@pytest.mark.parametrize("output", [5, b"found.gpkg", [], [5], ["a.gpkg", "./a.gpkg"], {"a.gpkg"}])
def test_what_is_no_path_is_refused(scene: Path, output: Any) -> None:
    with pytest.raises(ArgumentError):
        gd.detect_objects(scene, PaintDetector(), output, progress=False)


def test_a_url_is_refused() -> None:
    with pytest.raises(OutputError, match=r"found\.gpkg is to be written to a URL.*local path"):
        check_output("s3://bucket/found.gpkg")


def test_home_is_expanded(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("home").mkdir()
    monkeypatch.setenv("HOME", str(Path("home").resolve()))
    (Path("home") / "scene.tif").write_bytes(scene.read_bytes())
    path = gd.detect_objects("~/scene.tif", PaintDetector(), "~/found.gpkg", progress=False)
    assert path == Path("home/found.gpkg").resolve()
    assert len(open_features("~/found.gpkg").frame) == len(TRUTH)


def test_the_layer_has_the_name_of_the_file_where_a_geopackage_takes_it(scene: Path) -> None:
    for name, layer in (("cars", "cars"), ("(draft)", "_(draft)"), ("gpkg_x", "_gpkg_x"), ("searched", "_searched")):
        assert gpd.list_layers(write_features(_features(), f"{name}.gpkg"))["name"].tolist()[0] == layer
        assert gpd.list_layers(write_features(_features(), f"{name}.fgb"))["name"].tolist()[0] == name


# Shapefiles


def test_a_shapefile_in_capitals_has_its_parts_in_capitals(scene: Path) -> None:
    path = write_features(_features(), "FOUND.SHP")
    assert {name for name in _names() if name.startswith("FOUND")} == {
        f"FOUND.{suffix}" for suffix in ("CPG", "DBF", "PRJ", "SHP", "SHX")
    }
    assert len(gpd.read_file(path)) == 1
    Path("FOUND.QIX").touch()
    write_features(_features(2), path)
    assert len(gpd.read_file(path)) == 2
    assert not Path("FOUND.QIX").exists()


def test_parts_that_gdal_would_take_for_anothers_are_refused(scene: Path) -> None:
    write_features(_features(2), "found.shp")
    with pytest.raises(OutputError, match=r"found\.shp lies beside found\.SHP"):
        check_output("found.SHP")
    with pytest.raises(OutputError, match=r"GDAL does not find other\.Shp; write other\.shp"):
        check_output("other.Shp")
    assert len(gpd.read_file("found.shp")) == 2


# What lies there already


def _wal(path: Path) -> sqlite3.Connection:
    """The file as QGIS has it open."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE edited (a)")
    database.commit()
    return database


def test_a_geopackage_that_is_open_elsewhere_is_not_replaced(scene: Path) -> None:
    path = write_features(_features(2), "found.gpkg")
    with closing(_wal(path)):
        _Counts.n = 0
        with pytest.raises(OutputError, match=r"found\.gpkg is open in another .*\(found\.gpkg-wal and .*close it"):
            gd.detect_objects(scene, _Counts(), path, progress=False)
        assert _Counts.n == 0
    gd.detect_objects(scene, PaintDetector(), path, progress=False)
    assert len(open_features(path).frame) == len(TRUTH)


def test_one_that_is_opened_meanwhile_keeps_what_was_done(scene: Path) -> None:
    path = write_features(_features(2), "found.gpkg")
    opened: list[sqlite3.Connection] = []

    class Opens(PaintDetector):
        def detect(self, pixels: Any) -> list[Boxes]:
            opened.extend([] if opened else [_wal(path)])
            return super().detect(pixels)

    with pytest.raises(OutputError, match=r"is open in another program.*kept in found\.journal.*resume=True"):
        gd.detect_objects(scene, Opens(), path, progress=False)
    opened[0].close()
    gd.detect_objects(scene, Opens(), path, resume=True, progress=False)
    assert len(open_features(path).frame) == len(TRUTH)


def test_what_a_program_that_crashed_left_beside_a_geopackage_does_no_harm(scene: Path) -> None:
    path = write_features(_features(2), "found.gpkg")
    with closing(_wal(path)):
        left = {suffix: Path(f"found.gpkg{suffix}").read_bytes() for suffix in ("-wal", "-shm")}
        crashed = path.read_bytes()
    path.write_bytes(crashed)
    for suffix, content in left.items():
        Path(f"found.gpkg{suffix}").write_bytes(content)
    gd.detect_objects(scene, PaintDetector(), path, progress=False)
    assert len(open_features(path).frame) == len(TRUTH)
    with closing(sqlite3.connect(path)) as database:
        assert not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'edited'").fetchall()
    assert not list(Path().glob("found.gpkg-*"))


def test_a_log_without_its_geopackage_is_not_applied_to_a_new_one(scene: Path) -> None:
    Path("found.gpkg-wal").write_bytes(b"x" * 100)
    with pytest.raises(OutputError, match=r"found\.gpkg-wal beside it"):
        check_output("found.gpkg")


def test_a_geopackage_of_several_layers_is_not_replaced(scene: Path) -> None:
    for layer in ("roads", "parcels"):
        _features().to_file("project.gpkg", layer=layer)
    with pytest.raises(OutputError, match=r"project\.gpkg holds 2 layers \(roads, parcels\), which would be lost"):
        gd.detect_objects(scene, PaintDetector(), "project.gpkg", progress=False)
    assert len(gpd.read_file("project.gpkg", layer="parcels")) == 1


def test_what_is_read_is_not_replaced(scene: Path) -> None:
    area = write_features(_features(), "area.gpkg")
    with pytest.raises(OutputError, match=r"area\.gpkg is to be read, and would be replaced"):
        gd.detect_objects(scene, PaintDetector(), "./area.gpkg", aoi=area, progress=False)
    assert len(open_features(area).frame) == 1


def test_a_link_is_written_through(scene: Path) -> None:
    Path("disk").mkdir()
    for suffix in (".gpkg", ".geojson", ".parquet"):
        link, file = Path(f"found{suffix}"), Path(f"disk/2024{suffix}")
        link.symlink_to(file)
        for _ in range(2):  # where it leads there is nothing at first
            assert gd.detect_objects(scene, PaintDetector(), link, progress=False) == link
            assert link.is_symlink()
            assert len(open_features(file).frame) == len(open_features(link).frame) == len(TRUTH)
    assert {each.name for each in Path("disk").iterdir()} == {"2024.gpkg", "2024.geojson", "2024.parquet"}
    Path("found.shp").symlink_to("disk/2024.shp")
    with pytest.raises(OutputError, match=r"found\.shp is a link.*name the file it leads to"):
        check_output("found.shp")


def test_the_other_name_of_a_file_keeps_the_older_content(scene: Path) -> None:
    path = write_features(_features(2), "found.gpkg")
    os.link(path, "kept.gpkg")
    write_features(_features(1), path)
    assert (len(open_features("kept.gpkg").frame), len(open_features(path).frame)) == (2, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_write_protected_is_refused(scene: Path) -> None:
    path = write_features(_features(2), "found.gpkg")
    path.chmod(0o444)
    with pytest.raises(OutputError, match="is write-protected"):
        check_output(path)
    Path("closed").mkdir(0o555)
    with pytest.raises(OutputError, match="the folder closed cannot be written to"):
        check_output("closed/found.gpkg")


def test_what_is_no_regular_file_is_refused(scene: Path) -> None:
    os.mkfifo("pipe.csv")
    with pytest.raises(OutputError, match="no regular file"):
        check_output("pipe.csv")


# Several files of one run


def test_several_files_of_one_run_are_each_what_a_run_alone_gives(scene: Path) -> None:
    names = [f"found{suffix}" for suffix in SUFFIXES]
    _Counts.n = 0
    paths = gd.detect_objects(scene, _Counts(), names, progress=False)
    n_windows = _Counts.n
    assert paths == [Path(name) for name in names]
    for path in paths:
        alone = gd.detect_objects(scene, _Counts(), f"alone{path.suffix}", progress=False)
        ours, theirs = (open_features(each).frame for each in (path, alone))
        assert ours.drop(columns="id", errors="ignore").equals(theirs.drop(columns="id", errors="ignore"))
    assert _Counts.n == n_windows * (1 + len(names))
    assert not list(Path().glob("*.journal"))


def test_those_that_fail_are_named_and_the_others_are_complete(scene: Path) -> None:
    class Blocks(PaintDetector):
        def detect(self, pixels: Any) -> list[Boxes]:
            Path("b.fgb").mkdir(exist_ok=True)
            return super().detect(pixels)

    outputs = ["a.gpkg", "b.fgb", "c.csv"]
    message = r"b\.fgb is a folder.*a\.gpkg and c\.csv are complete; .* strips are kept in a\.journal.*resume=True"
    with pytest.raises(OutputError, match=message):
        gd.detect_objects(scene, Blocks(), outputs, progress=False)
    assert len(open_features("a.gpkg").frame) == len(open_features("c.csv").frame) == len(TRUTH)
    Path("b.fgb").rmdir()
    _Counts.n = 0
    with pytest.raises(ArgumentError, match="begun with model Blocks"):
        gd.detect_objects(scene, _Counts(), outputs, resume=True, progress=False)


def test_all_are_checked_before_any_work(scene: Path) -> None:
    _Counts.n = 0
    with pytest.raises(OutputError, match="there is no folder"):
        gd.detect_objects(scene, _Counts(), ["a.gpkg", "missing/b.gpkg"], progress=False)
    assert (_Counts.n, Path("a.gpkg").exists()) == (0, False)


# Texts


@pytest.mark.parametrize("name", ["a\0b", "a\x01b", "a\rb", "a\x1fb", "a\ufffeb", "a\udc80b"])
def test_texts_that_would_not_come_back_are_refused_before_any_work(scene: Path, name: str) -> None:
    odd = _Counts(classes=("red", name))
    for suffix in SUFFIXES:
        _Counts.n = 0
        with pytest.raises(OutputError) as caught:
            gd.detect_objects(scene, odd, f"found{suffix}", progress=False)
        assert str(caught.value).isprintable()
        assert repr(name)[1:-1] in str(caught.value).replace("\\\\", "\\")
        assert _Counts.n == 0
    if "\udc80" in name:
        with pytest.raises(OutputError, match="a frame cannot hold"):
            gd.detect_objects(scene, odd, progress=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", COMING_BACK)
def test_all_others_come_back(tmp_path: Path, suffix: str, name: str) -> None:
    features = _features(2).assign(label=[name, "car"])
    assert name in set(open_features(write_features(features, tmp_path / f"found{suffix}")).frame["label"])


def test_a_shapefile_cuts_no_text_in_silence(scene: Path) -> None:
    long = _Counts(classes=("red", "é" * 128))
    _Counts.n = 0
    with pytest.raises(OutputError, match=r"a text of 256 bytes .* shapefile, which holds 254; write found\.gpkg"):
        gd.detect_objects(scene, long, "found.shp", progress=False)
    assert _Counts.n == 0
    path = write_features(_features().assign(label="é" * 128), "found.gpkg")
    assert open_features(path).frame["label"].tolist() == ["é" * 128]


def test_columns_that_libraries_take_for_one_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"several columns named 'label'"):
        write_features(_features().assign(LABEL="x"), tmp_path / "found.fgb")
    with pytest.raises(OutputError, match=r"'Gebäudehöhe' takes 13 bytes.* cuts names to 10"):
        write_features(_features().assign(Gebäudehöhe=1.0), tmp_path / "found.shp")
    assert not list(tmp_path.iterdir())


def test_outputs_of_one_run_do_not_get_in_each_others_way(scene: Path) -> None:
    Path("maps").mkdir()
    Path("link").symlink_to("maps")
    for outputs in (["a.shp", "a.SHP"], ["maps/a.shp", "link/a.SHP"], ["maps/a.gpkg", "link/a.gpkg"]):
        with pytest.raises(ArgumentError):
            gd.detect_objects(scene, detector := _Counts(), outputs, progress=False)
        assert detector.n == 0
    assert _names() == {"scene.tif", "maps", "link"}


def test_two_runs_of_one_name_are_kept_apart(scene: Path) -> None:
    class Second(PaintDetector):
        def detect(self, pixels: Any) -> list[Boxes]:
            with pytest.raises(OutputError, match="another run is writing found"):
                gd.detect_objects(scene, PaintDetector(), "found.shp", progress=False)
            return super().detect(pixels)

    gd.detect_objects(scene, Second(), "found.gpkg", progress=False)
    assert len(gpd.read_file("found.gpkg", layer="found")) == len(TRUTH)
    assert _names() == {"scene.tif", "found.gpkg"}
    Path(".found.lock").touch()  # of a run that was killed
    gd.detect_objects(scene, PaintDetector(), "found.shp", progress=False)
    assert ".found.lock" not in _names()


def test_a_full_disk_is_named(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames() -> Iterator[gpd.GeoDataFrame]:
        yield _features()
        raise OSError("no such table: gpkg_contents")

    with pytest.raises(OutputError, match="no such table"):
        write_features(frames(), "found.gpkg")
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(0))
    with pytest.raises(OutputError, match="the disk is full"):
        write_features(frames(), "found.gpkg")


class _Usage(NamedTuple):
    free: int


def test_a_folder_that_a_run_works_in_is_held(tmp_path: Path) -> None:
    with hold(tmp_path / "chips"):
        with (
            pytest.raises(OutputError, match="another run is writing chips"),
            OutDir(tmp_path / "chips", overwrite=False).open("{}"),
        ):
            pass
        assert not (tmp_path / "chips").exists()
    with OutDir(tmp_path / "chips", overwrite=False).open("{}"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["chips"]
