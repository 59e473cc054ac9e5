"""The command line: the same words as Python, quick help, one sentence on errors, and the whole way once."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import click
import geopandas as gpd
import pytest

from geodetect import load_detector
from geodetect.accuracy import compute_accuracy
from geodetect.chips import export_training_data, prepare_data
from geodetect.cli.main import main
from geodetect.errors import ModelError
from geodetect.learner import RetinaNet
from geodetect.scene import detect_objects
from geodetect.viewer import view
from tests.fakes import PaintedScene

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # fastai, on import

ALL_COMMANDS = main.list_commands(click.Context(main))
COMMANDS = ("chips", "train", "detect", "evaluate", "export", "info", "view")
ARGUMENTS = {"chips": 3, "train": 2, "detect": 3, "evaluate": 2, "export": 2, "info": 1, "view": 3}
KEYWORDS: dict[str, list[Callable[..., Any]]] = {
    "chips": [export_training_data],
    "train": [prepare_data, RetinaNet, RetinaNet.fit],
    "detect": [detect_objects],
    "evaluate": [compute_accuracy],
    "view": [view],
    "export": [RetinaNet.export],
}
PYTHON_ONLY = {"callbacks", "client", "save_as"}  # objects, which a command line cannot name; and MODEL
COMMAND_ONLY = {"evaluate": {"output": None}, "detect": {"scheduler": None}}  # in Python: `.save`, `client=`


def parsed(command: str, *options: str) -> dict[str, Any]:
    """What the options of a command become; its arguments are left out."""
    made = main.get_command(click.Context(main), command)
    assert made is not None
    context = made.make_context(command, [*options, *["x"] * ARGUMENTS[command]])
    arguments = {each.name for each in made.params if isinstance(each, click.Argument)}
    return {name: value for name, value in context.params.items() if name not in arguments}


def run(*arguments: str | Path) -> int:
    """The exit code of a command, run here."""
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments], prog_name="geodetect")
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", KEYWORDS)
def test_options_have_the_names_and_defaults_of_the_keywords(command: str) -> None:
    keywords = {
        name: parameter.default
        for function in KEYWORDS[command]
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }
    taken = main.get_command(click.Context(main), command).params
    arguments = {each.name for each in taken if isinstance(each, click.Argument)}
    wanted = {name: value for name, value in keywords.items() if name not in PYTHON_ONLY | arguments}
    assert parsed(command) == wanted | COMMAND_ONLY.get(command, {})


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_words_with_dashes_and_helped(command: str) -> None:
    made = main.get_command(click.Context(main), command)
    for option in (each for each in made.params if isinstance(each, click.Option)):
        assert option.name is not None
        assert f"--{option.name.replace('_', '-')}" in option.opts
        assert option.help
        assert option.help.endswith(".")
        if isinstance(option.type, click.types.FloatParamType | click.types.IntParamType):
            unit = r"pixels|metres|0 to 1|0 and 1|at most 1|share|strides|factor|exponent|above 0|count|whole number"
            assert re.search(unit, option.help), f"{option.name} has no unit"


HELP = """
import sys
from geodetect.cli.main import main
try:
    main({})
except SystemExit:
    files = {{name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}}
    ours = sorted(name for name in files if name.startswith("geodetect"))
    installed = {{name.partition(".")[0] for name, file in files.items() if "site-packages" in file}}
    print(ours, sorted(installed - {{"geodetect"}}), file=sys.stderr, sep="\\n")
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in ALL_COMMANDS)], ids=" ".join
)
def test_help_loads_the_command_line_alone(arguments: list[str]) -> None:
    """What costs time is what is imported: click, and of geodetect its command line (0.06 s of processor time)."""
    command = [sys.executable, "-c", HELP.format(arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout
    ours, installed = (ast.literal_eval(line) for line in answer.stderr.splitlines())
    light = {
        "geodetect",
        "geodetect.addresses",
        "geodetect.errors",
        "geodetect.facts",
        "geodetect.files",
    }  # texts, of the standard library
    assert {name for name in ours if not name.startswith("geodetect.cli")} <= light
    assert set(installed) - {"click", "colorama", "_distutils_hack"} == set()


@pytest.mark.parametrize(
    ("command", "options", "name", "value"),
    [
        ("chips", "--bands 1,2,3", "bands", (1, 2, 3)),
        ("detect", "--bands 1,1,1", "bands", (1, 1, 1)),
        ("detect", "--bands nir,red,3", "bands", ("nir", "red", 3)),
        ("detect", "--min-score 0.4", "min_score", 0.4),
        ("detect", "--min-score pool=0.4,car=0.3", "min_score", {"pool": 0.4, "car": 0.3}),
        ("detect", "--pixel-size-m 0.3", "pixel_size_m", 0.3),
        ("detect", "--pixel-size-m none", "pixel_size_m", None),
        ("detect", "--pixel-size-m model", "pixel_size_m", "model"),
        ("detect", "--no-progress", "progress", False),
        ("train", "--class-mapping 1=pool --class-mapping 2=", "class_mapping", {"1": "pool", "2": None}),
        ("train", "--class-mapping 1=a=b", "class_mapping", {"1": "a=b"}),
        ("train", "--scales auto", "scales", "auto"),
        ("train", "--scales 1,1.5", "scales", (1.0, 1.5)),
        ("train", "--ratios 0.5,1", "ratios", (0.5, 1.0)),
        ("train", "--weights none", "weights", None),
        ("train", "--weights old.safetensors", "weights", "old.safetensors"),
        ("train", "--freeze", "freeze", True),
        ("train", "--checkpoint no", "checkpoint", False),
        ("train", "--checkpoint states --resume", "checkpoint", "states"),
    ],
)
def test_values(command: str, options: str, name: str, value: object) -> None:
    assert parsed(command, *options.split())[name] == value


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("nothing", "no command 'nothing'; see geodetect --help"),
        ("detct scene.tif", "no command 'detct'; is detect meant?"),
        ("detect a.tif", "Missing argument 'MODEL'"),
        ("info --colour x", "No such option"),
        ("detect a b c --bands red,", "by number from 1 or by name, such as 1,2,3 or red,nir; got 'red,'"),
        ("detect a b c --min-score pool=high", "expected a number, or one for each class"),
        ("detect a b c --precision half", "'half' is not one of 'auto', 'float32', 'bf16', 'float16', 'int8'"),
        ("train a b --class-mapping pool", "expected OLD=NEW, or OLD= to drop it; got 'pool'"),
        ("train a b --scales wide", "such as 1,1.26,1.59, or auto; got 'wide'"),
    ],
)
def test_wrong_usage_exits_2(arguments: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments.split()) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr, with nothing on stdout."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("Error: ")
    return said.err.removeprefix("Error: ").strip()


@pytest.mark.parametrize(
    "arguments",
    [
        "chips absent.tif absent.gpkg out",
        "train absent out.safetensors",
        "train absent.tif out.safetensors --labels absent.gpkg",
        "detect absent.tif absent.safetensors out.gpkg",
        "evaluate absent.gpkg absent.gpkg",
        "export absent.safetensors out.pt2",
        "info absent",
        "info absent.tif",
        "info absent.safetensors",
        "info absent.pt2",
        "info absent.dlpk",
    ],
)
def test_a_missing_file_is_one_sentence_and_leaves_nothing(
    arguments: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments.split()) == 1
    assert "absent" in one_error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, upright: PaintedScene
) -> None:
    assert run("train", upright.path, tmp_path / "model.pt", "--labels", "absent.gpkg") == 1
    assert "MODEL must be a .safetensors file" in one_error(capsys)
    assert run("train", upright.path, tmp_path / "no" / "model.safetensors") == 1
    assert "does not exist; make it first" in one_error(capsys)
    assert run("export", "absent.safetensors", tmp_path / "model.h5") == 1
    assert "exported as .onnx, .dlpk, .pt2, .json" in one_error(capsys)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--weights imagenett", ['"imagenet"', '"coco"', "published detector", "imagenett"]),
        ("--weights houses.safetensors", ["there is no file houses.safetensors"]),
        ("--weights yolov9_trees.onnx", ["yolov9_trees.onnx", "cannot be trained"]),
        ("--weights https://localhost/cars.onnx?token=secret", ["cars.onnx", "cannot be trained"]),
        ("--backbone resnet51", ["resnet50"]),
    ],
)
def test_names_for_training_are_refused_before_the_data_is_read(
    option: str, told: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("train", "absent.tif", tmp_path / "model.safetensors", "--labels", "absent.gpkg", *option.split()) == 1
    said = one_error(capsys)
    assert all(each in said for each in told)
    assert "absent" not in said
    assert "secret" not in said


def test_keywords_are_options_here(capsys: pytest.CaptureFixture[str], tmp_path: Path, work: Path) -> None:
    cut = ("chips", work / "scene.tif", work / "truth.gpkg", work / "chips")
    assert run(*cut) == 1
    assert one_error(capsys).endswith("is not empty; choose another folder, or --overwrite to empty it")
    assert run("train", work / "scene.tif", tmp_path / "model.safetensors") == 1
    assert "is a file (give --labels)" in one_error(capsys)
    assert run(*cut, "--overlap", "64", "--chip-size", "32", "--overwrite") == 1
    assert one_error(capsys).endswith("got --overlap 64, --chip-size 32")
    assert run(*cut, "--nodata", "70000", "--overwrite") == 1
    assert "nodata must be a value that scene.tif can hold" in one_error(capsys)
    for option, value in (("--seed", "-1"), ("--negatives", "inf"), ("--negatives", "nan"), ("--min-visible", "2")):
        assert run(*cut, option, value, "--overwrite") == 1
        assert option[2:].replace("-", "_") in one_error(capsys)
    assert (work / "chips" / "labels.json").is_file()


def test_layers_and_areas_are_options_too(capsys: pytest.CaptureFixture[str], tmp_path: Path, work: Path) -> None:
    towns, truth = tmp_path / "towns.gpkg", gpd.read_file(work / "truth.gpkg")
    truth.iloc[:1].to_file(towns, layer="old")
    truth.to_file(towns, layer="new")
    assert run("evaluate", work / "truth.gpkg", towns) == 0
    assert capsys.readouterr().err.startswith("Warning: towns.gpkg has several layers: old, new; old is read")
    x1, y1, x2, y2 = truth.total_bounds
    area = f"{x1},{y1},{(x1 + x2) / 2},{y2}"
    for labels, options in ((towns, ("--layer", "new")), (towns, ("--layer", "1")), (f"{towns}|layername=new", ())):
        assert run("evaluate", work / "truth.gpkg", labels, *options) == 0
        whole = capsys.readouterr()
        assert run("evaluate", work / "truth.gpkg", labels, *options, "--aoi", area) == 0
        west = capsys.readouterr()
        assert whole.err == west.err == ""
        assert [re.findall(r"all .* (\d+) │ +0 │ +0 │$", each.out, re.M) for each in (whole, west)] == [["9"], ["5"]]
        assert run("info", labels, *options) == 0
        assert "9 (9 Polygon)" in capsys.readouterr().out
    one = work / "truth.gpkg"
    for command in (
        ("chips", work / "scene.tif", towns, tmp_path / "chips"),
        ("evaluate", one, towns),
        ("info", towns),
    ):
        assert run(*command, "--layer", "newer") == 1
        assert "towns.gpkg has no layer 'newer'; it has old, new" in one_error(capsys)
    assert run("evaluate", one, one, "--aoi", "1,2,3") == 1
    assert "must be (x1, y1, x2, y2)" in one_error(capsys)


def test_an_empty_name_is_no_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (("info", ""), ("train", "", tmp_path / "model.safetensors"), ("chips", "", "a.gpkg", "out")):
        assert run(*arguments) == 1
        assert re.search("got (an empty name|'')", one_error(capsys))


def test_a_file_of_no_known_kind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.tif").write_text("not a raster", encoding="utf-8")
    assert run("info", tmp_path / "notes.tif") == 1
    told = one_error(capsys)
    assert "notes.tif cannot be read as a raster" in told
    assert told.endswith("nor can it be read as a vector file or a model (.safetensors)")
    (tmp_path / "empty").mkdir()
    assert run("info", tmp_path / "empty") == 1
    assert "is a folder without GeoTIFFs" in one_error(capsys)
    (tmp_path / "notes.safetensors").write_text("not a model", encoding="utf-8")
    assert run("info", tmp_path / "notes.safetensors") == 1
    assert "not a whole safetensors file" in one_error(capsys)


@pytest.fixture
def group() -> click.Group:
    """A group like ours, for commands that go wrong on purpose."""
    return type(main)("geodetect")


def ended(group: click.Group, action: Callable[[], None]) -> int:
    """The exit code of a command that does this."""
    group.add_command(click.Command("go", callback=action))
    with pytest.raises(SystemExit) as exit_code:
        group(["go"])
    return int(exit_code.value.code or 0)


def test_ctrl_c_exits_130_with_one_line(group: click.Group, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert ended(group, interrupted) == 130
    assert one_error(capsys) == "stopped by Ctrl-C"


def test_errors_of_the_system_are_one_line(group: click.Group, capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "out.gpkg")

    assert ended(group, full) == 1
    assert "No space left on device: 'out.gpkg'" in one_error(capsys)


def test_what_was_noted_on_the_way_is_told(group: click.Group, capsys: pytest.CaptureFixture[str]) -> None:
    def noted(error: BaseException, note: str) -> Callable[[], None]:
        def action() -> None:
            error.add_note(note)
            raise error

        return action

    assert ended(group, noted(ModelError("it is damaged"), "wrote model.safetensors")) == 1
    assert one_error(capsys) == "it is damaged; wrote model.safetensors"
    assert ended(group, noted(MemoryError(), "wrote model.safetensors")) == 1
    assert one_error(capsys) == "there is not enough memory; wrote model.safetensors"
    assert ended(group, noted(KeyboardInterrupt(), "nothing was written")) == 130
    assert one_error(capsys) == "stopped by Ctrl-C; nothing was written"


def test_own_warnings_are_one_line_and_others_silent(group: click.Group, capsys: pytest.CaptureFixture[str]) -> None:
    def warned() -> None:
        warnings.warn("the raster lies\nnowhere", UserWarning, stacklevel=2)  # blamed on click, which called
        warnings.warn("soon to go", DeprecationWarning, stacklevel=2)
        warnings.warn("from elsewhere", UserWarning, stacklevel=1)

    assert ended(group, warned) == 0
    assert capsys.readouterr().err == "Warning: the raster lies nowhere\n"


def test_python_m_geodetect_is_the_command() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "geodetect", "info", "absent"], capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("Error: There is no file absent")


TRAINING = "--epochs 1 --backbone resnet18 --size small --weights none --scales auto".split()
TRAINING += ["--split", "random", "--val-split-pct", "0.4"]


@pytest.fixture(scope="module")
def work(scenes: dict[str, PaintedScene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene, its labels, chips cut from them, and a model trained on these."""
    folder = tmp_path_factory.mktemp("work")
    scene = scenes["upright"]
    (folder / "scene.tif").write_bytes(scene.path.read_bytes())
    scene.truth.to_file(folder / "truth.gpkg")
    scene.truth.replace("red", None).to_file(folder / "some.geojson")
    cut = ["chips", folder / "scene.tif", folder / "truth.gpkg", folder / "chips", "--chip-size", 64]
    assert run(*map(str, cut), "--no-progress") == 0
    train = ["train", folder / "chips", folder / "model.safetensors", *TRAINING, "--device", "cpu"]
    assert run(*train, "--no-progress", "--num-workers", "0") == 0
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that went well said, on single spaces."""
    told = capsys.readouterr()
    assert "Error" not in told.err
    return " ".join(told.out.split())


def test_chips_and_a_model_are_made(work: Path) -> None:
    assert (work / "chips" / "labels.json").is_file()
    assert (work / "model.safetensors").is_file()


@pytest.mark.parametrize("metadata_format", ["coco", "voc", "yolo", "kitti", "esri"])
def test_chips_tells_what_was_cut_and_what_was_left_out(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], metadata_format: str
) -> None:
    out = tmp_path / "chips"
    arguments = ("chips", work / "scene.tif", work / "truth.gpkg", out, "--chip-size", "64", "--no-progress")
    assert run(*arguments, "--metadata-format", metadata_format) == 0
    told = capsys.readouterr()
    assert told.out == f"Wrote {out}: 11 chips with 14 boxes (red 8, blue 6)\n"
    assert told.err == (
        "Warning: 9 objects of 2 classes from truth.gpkg; "
        "in no chip: 1 under 2 px or visible by less than 30% in every chip\n"
    )


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_ctrl_c_and_sigterm_save_the_best_weights_so_far(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, name: str
) -> None:
    states, model = tmp_path / "states", tmp_path / "model.safetensors"
    arguments = [work / "chips", model, *TRAINING, "--epochs", "1000", "--num-workers", "0"]

    def interrupt() -> None:
        while not (states / "training.safetensors").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    # A shell lets what it starts in the background ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    Thread(target=interrupt, daemon=True).start()
    try:
        assert run("train", *arguments, "--checkpoint", states) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    told = capsys.readouterr().err.strip()
    assert re.fullmatch(
        rf"Error: stopped by {name}; wrote .*model.safetensors with the best weights of \d+ epochs?", told
    )
    assert load_detector(model).summary["epochs"] >= 1


def test_pictures_that_go_away_cost_no_training(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chips, states, model = tmp_path / "chips", tmp_path / "states", tmp_path / "model.safetensors"
    shutil.copytree(work / "chips", chips)

    def remove() -> None:
        while not (states / "training.safetensors").exists():  # all are read, once, in the first epoch
            time.sleep(0.01)
        shutil.rmtree(chips / "images")

    Thread(target=remove, daemon=True).start()
    arguments = [chips, model, *TRAINING, "--epochs", "3", "--num-workers", "0", "--checkpoint", states]
    assert run("train", *arguments, "--no-progress") == 1
    told = capsys.readouterr()
    assert f"Wrote {model}" in told.out
    assert "the validation ground could not be mapped" in told.err
    assert "000000002.tif" in told.err.splitlines()[-1]  # the scores that come last need the pictures again
    assert load_detector(model).summary["epochs"] == 3


def test_info_of_a_model(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", work / "model.safetensors") == 0
    told = said(capsys)
    for part in ("a model (", "classes blue, red", "bands 1, 2, 3", "pixel size 0.5 m", "chip size 64 px",
                 "backbone resnet18", "anchors base", "best score", "epochs 1"):  # fmt: skip
        assert part in told


def test_info_of_a_raster(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", work / "scene.tif") == 0
    told = said(capsys)
    for part in ("a raster", "size 224 x 160 px", "bands 1, 2, 3 (uint16)", "CRS EPSG:32645", "pixel size 0.5 x 0.5 m",
                 "x 353000 to 353112, y 3056920 to 3057000"):  # fmt: skip
        assert part in told


def test_info_of_a_vector_file(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", work / "truth.gpkg") == 0
    told = said(capsys)
    for part in ("a vector file", "features 9 (9 Polygon)", "CRS EPSG:32645", "classes blue 5, red 4"):
        assert part in told
    assert run("info", work / "some.geojson") == 0
    assert "classes blue 5, without a class 4" in said(capsys)
    assert run("info", work / "truth.gpkg", "--label-field", "colour") == 1
    assert "has no column 'colour'" in one_error(capsys)


def test_detections_are_written_and_told_of(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "found.gpkg"
    assert (
        run("detect", work / "scene.tif", work / "model.safetensors", found, "--min-score", "0.05", "--no-progress")
        == 0
    )
    assert said(capsys).startswith(f"Wrote {found} (")
    assert run("info", found) == 0
    assert "CRS EPSG:32645" in said(capsys)


def test_truth_against_itself_is_perfect(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = work / "truth.gpkg"
    assert run("evaluate", truth, truth, "--output", tmp_path / "score.csv") == 0
    told = said(capsys)
    assert "Accuracy at IoU 0.5" in told
    assert "│ all │ 1.000 │ 1.000 │ 1.000 │ 1.000 │ 9 │ 0 │ 0 │" in told
    assert told.endswith(f"Wrote {tmp_path / 'score.csv'}")
    assert (tmp_path / "score.csv").read_text(encoding="utf-8").startswith("class,precision")


IN_TURN = """
import json, sys
from geodetect.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        print("ended with", ended.code or 0, flush=True)
"""


@pytest.fixture(scope="module")
def in_a_pipe(scenes: dict[str, PaintedScene], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, bytes]]:
    """Exit codes and outputs of commands on classes that a terminal cannot show; one program, as importing is slow."""
    folder, upright = tmp_path_factory.mktemp("pipe"), scenes["upright"]
    truth = folder / "truth.gpkg"
    upright.truth.replace({"red": "泳池", "blue": "Bäume"}).to_file(truth)
    small = ("--chip-size", "64", "--no-progress")
    commands = [
        ("chips", upright.path, truth, folder / "chips", *small),
        ("info", truth),
        ("evaluate", truth, truth),
        ("chips", upright.path, truth, folder / "chips", *small, "--metadata-format", "泳"),
    ]
    texts = [[str(each) for each in arguments] for arguments in commands]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-c", IN_TURN, json.dumps(texts)]
    answer = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"Traceback" not in answer.stderr
    *shown, rest = answer.stdout.split(b"ended with ")
    assert len(shown) == len(commands)
    codes = [int(each.split()[0]) for each in [*shown[1:], rest]]
    assert codes == [0, 0, 0, 1], answer.stderr
    return [(codes[k], each.partition(b"\n")[2] if k else each) for k, each in enumerate(shown)]


def test_classes_that_a_terminal_cannot_show_end_nothing(in_a_pipe: list[tuple[int, bytes]]) -> None:
    for refused, said_so in in_a_pipe:
        assert (b"\\u6cf3" in said_so) != refused
        assert (b"B\xe4ume" in said_so) != refused


def test_wide_tables_are_not_cut_off_in_a_pipe(in_a_pipe: list[tuple[int, bytes]]) -> None:
    _, table = in_a_pipe[2]
    assert "…".encode("cp1252") not in table
    assert b"precision" in table


def test_a_warning_names_options(upright: PaintedScene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upright.truth.to_file(tmp_path / "truth.gpkg")
    cut = ("chips", upright.path, tmp_path / "truth.gpkg", tmp_path / "chips", "--chip-size", "32", "--no-progress")
    assert run(*cut) == run(*cut) == 0
    assert "chips is complete already; --overwrite cuts it anew" in capsys.readouterr().err
