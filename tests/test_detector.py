import json
import lzma
import math
import os
import zlib
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geodetect import load_detector
from geodetect.anchors import AnchorSpec
from geodetect.detector import Detector, file
from geodetect.errors import ArgumentError, ModelError, OutputError
from geodetect.metadata import Architecture, Metadata
from geodetect.network.coding import select_candidates, suppress
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization, ValueRange
from tests.data import version_1
from tests.fakes import full_disk, make_detector, standardise, trained

ANY = 0.0097  # of a network that has learnt nothing, about half the scores are above this
NORMALIZATION = Normalization((900.0, 1000.0, 1100.0, 1200.0), (300.0, 310.0, 320.0, 330.0))
TOLD = {"pixel_size_m": 0.3, "min_score": {"hut": 0.4, "tent": 0.6}, "summary": {"epochs": 3, "classes": {"hut": 1.5}}}


def make(classes=("hut", "tent"), backbone="efficientnet_b0", **changes) -> Detector:
    torch.manual_seed(0)
    network = trained(
        Network(
            Architecture(backbone, anchors=AnchorSpec(scales=(1.0,)), width=64, depth=1),
            n_classes=2,
            n_bands=4,
            weights=None,
        )
    )
    given = {
        "bands": (4, 1, 2, 3),
        "normalization": NORMALIZATION,
        "chip_size": 64,
        "overlap": 16,
        "precision": "float32",
    }
    return make_detector(network.eval(), classes, **(given | changes))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return make(backbone="resnet18", **TOLD)


@pytest.fixture(scope="module")
def small() -> Detector:
    """A third of the weights, for tests that write and read them again and again."""
    return make(**TOLD)


@pytest.fixture
def saved(small, tmp_path) -> Path:
    return small.save(tmp_path / "huts.safetensors")


def chips(n: int = 2, height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2000, (n, 4, height, width)).astype(np.uint16)


def assert_same(got, expected, atol=1e-3):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert len(a) == len(b)
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=atol)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_boxes_are_those_of_the_stretched_pixels(detector):
    pixels = chips()
    with torch.inference_mode():
        logits, deltas = detector.network(torch.from_numpy(standardise(NORMALIZATION, pixels)))
    anchors, sizes = detector.network.anchors((64, 96)), detector.network.level_sizes((64, 96))
    expected = suppress(select_candidates(logits, deltas, anchors, (64, 96), level_sizes=sizes, min_score=ANY), 0.5)
    assert sum(map(len, expected)) > 10
    assert_same(detector.detect(pixels, min_score=ANY), expected)


def read_only(pixels: np.ndarray) -> np.ndarray:
    pixels.flags.writeable = False
    return pixels


@pytest.mark.parametrize(
    "other",
    [
        torch.from_numpy,
        lambda pixels: torch.from_numpy(pixels).to(memory_format=torch.channels_last),
        lambda pixels: pixels.astype(np.int16),
        lambda pixels: pixels.astype(np.float64),
        lambda pixels: pixels.astype(">u2"),
        lambda pixels: read_only(pixels.copy()),
        lambda pixels: pixels[:, :, ::-1].copy()[:, :, ::-1],
        lambda pixels: np.moveaxis(np.moveaxis(pixels, 1, -1).copy(), -1, 1),
    ],
)
def test_the_type_and_layout_of_pixels_change_nothing(detector, other):
    assert_same(detector.detect(other(chips()), min_score=ANY), detector.detect(chips(), min_score=ANY))


def test_a_batch_is_its_chips(detector):
    pixels = chips(3)
    singly = [detector.detect(pixels[i : i + 1], min_score=ANY)[0] for i in range(3)]
    assert_same(detector.detect(pixels, min_score=ANY), singly, atol=1e-2)


@pytest.mark.parametrize("shape", [(1, 1), (70, 33), (64, 95)])
def test_chips_of_any_size_are_set_in_the_mean(detector, shape):
    pixels = chips(1, *shape)
    (found,) = detector.detect(pixels, min_score=0.0, nms_iou=1.0)
    padded = tuple(-(-side // 32) * 32 for side in shape)
    set_in_mean = np.zeros((1, 4, *padded), np.float32)
    set_in_mean[..., : shape[0], : shape[1]] = standardise(NORMALIZATION, pixels)
    with torch.inference_mode():
        logits, deltas = detector.network(torch.from_numpy(set_in_mean))
    network = detector.network
    sizes = network.level_sizes(padded)
    anchors = network.anchors(padded)
    expected = suppress(select_candidates(logits, deltas, anchors, shape, level_sizes=sizes, min_score=0.0), 1.0)
    assert len(found)
    assert_same([found], expected)
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [shape[1], shape[0], shape[1], shape[0]]).all()


def test_boxes_come_best_first_and_above_the_floor(detector):
    for found in detector.detect(chips(), min_score=ANY):
        assert (np.diff(found.scores) <= 0).all()
        assert (found.scores >= ANY).all()
        assert found.xyxy.dtype == np.float64


def test_each_class_has_its_own_floor(detector):
    everything = detector.detect(chips(), min_score=ANY)
    only = detector.detect(chips(), min_score={"tent": ANY})  # and 0.05 for huts, which none of them reaches
    assert_same(only, [found[found.labels == 1] for found in everything])


def test_what_is_not_finite_counts_as_the_mean(detector):
    pixels = chips().astype(np.float32)
    pixels[0, 1, 5:9, 5:9] = np.nan
    pixels[1, 2, 0, 0] = np.inf
    mean = pixels.copy()
    mean[0, 1, 5:9, 5:9], mean[1, 2, 0, 0] = NORMALIZATION.mean[1], NORMALIZATION.mean[2]
    assert_same(detector.detect(pixels, min_score=ANY), detector.detect(mean, min_score=ANY))


def test_no_chips_give_no_lists(detector):
    assert detector.detect(chips(0)) == []


def test_nothing_found_is_empty_boxes(detector):
    found = detector.detect(chips(), min_score=0.99)
    assert [len(boxes) for boxes in found] == [0, 0]
    assert found[0].scores is not None


def test_detecting_leaves_pixels_and_network_as_they_were(detector):
    pixels = chips().astype(np.float32)
    before, weights = pixels.copy(), {k: v.clone() for k, v in detector.network.state_dict().items()}
    detector.network.train()
    detector.network.backbone.body.bn1.eval()  # as a learner does that freezes part of it
    detector.detect(pixels)
    modes = {layer.training for layer in detector.network.modules()}, detector.network.backbone.body.bn1.training
    detector.network.eval()
    assert modes == ({True, False}, False)
    assert (pixels == before).all()
    assert all(torch.equal(v, weights[k]) for k, v in detector.network.state_dict().items())


def test_one_band_is_enough():
    network = Network("resnet18", n_classes=1, n_bands=1, weights=None)
    grey = make_detector(
        network, ["hut"], bands=[1], normalization=Normalization((5.0,), (2.0,)), chip_size=64, overlap=0
    )
    assert len(grey.detect(np.zeros((2, 1, 40, 40), np.uint8))) == 2


def test_bf16_finds_about_the_same(detector):
    rough = make_detector(
        detector.network,
        ["hut", "tent"],
        bands=detector.bands,
        normalization=NORMALIZATION,
        chip_size=64,
        overlap=16,
        precision="bf16",
    )
    exact, near = (d.detect(chips(), min_score=0.0, nms_iou=1.0)[0] for d in (detector, rough))
    assert near.scores.mean() == pytest.approx(exact.scores.mean(), rel=0.02)


def test_batches_are_launched_in_one_order_and_collected_in_another(detector):
    first, second = chips(2), chips(3)[::-1]
    launched = [detector.launch(pixels, min_score=ANY) for pixels in (first, second)]
    collected = [detector.collect(each) for each in reversed(launched)]
    assert_same(collected[1], detector.detect(first, min_score=ANY))
    assert_same(collected[0], detector.detect(second, min_score=ANY))


def test_a_frozen_detector_finds_the_same(detector):
    fast = detector.frozen()
    assert_same(fast.detect(chips(), min_score=ANY), detector.detect(chips(), min_score=ANY))
    assert (fast.precision, fast.classes, fast.min_score) == ("float32", detector.classes, detector.min_score)


def test_a_detector_sees_what_its_network_learns_and_a_frozen_one_does_not():
    detector = make()
    fast, before = detector.frozen(), detector.detect(chips(), min_score=ANY)
    detector.network.class_head.out.bias.data.fill_(-20)
    assert_same(fast.detect(chips(), min_score=ANY), before)
    assert sum(map(len, before)) > 0
    assert sum(map(len, detector.detect(chips(), min_score=ANY))) == 0
    assert sum(map(len, detector.frozen().detect(chips(), min_score=ANY))) == 0


def test_a_frozen_detector_is_saved_as_the_one_it_was_made_of(detector, tmp_path):
    saved, expected = (load_file(each.save(tmp_path / "huts.safetensors")) for each in (detector.frozen(), detector))
    assert list(saved) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())


def test_freezing_settles_the_precision():
    assert make(precision="auto").frozen().precision in {"float32", "bf16"}
    assert make(precision="auto").frozen("bf16").precision == "bf16"


def test_a_detector_says_how_many_chips_suit_it(detector):
    assert detector.suited_batch_size(512) == 1  # of 16 MiB in its largest map
    assert detector.frozen("bf16").suited_batch_size(512) == 3


def test_another_number_of_bands_is_refused(detector):
    with pytest.raises(ModelError, match=r"takes 4 bands \(4, 1, 2, 3\); got pixels of 3"):
        detector.detect(chips()[:, :3])


@pytest.mark.parametrize("shape", [(4, 64, 64), (1, 4, 0, 64)])
def test_pixels_of_another_shape_are_refused(detector, shape):
    with pytest.raises(ArgumentError, match=r"must be \(B, C, H, W\)"):
        detector.detect(np.zeros(shape))


def test_a_list_is_no_array(detector):
    with pytest.raises(ArgumentError, match=r"must be an array or tensor \(B, C, H, W\); got list"):
        detector.detect(chips().tolist())


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"min_score": 1.5}, "min_score must lie between 0 and 1; got 1.5"),
        ({"min_score": {"hut": -1}}, "min_score must lie between 0 and 1; got -1"),
        ({"min_score": {"huts": 0.5}}, "'huts', which the model does not know; it knows hut"),
        ({"min_score": None}, "min_score must lie between 0 and 1; got None"),
        ({"nms_iou": float("nan")}, "nms_iou must lie between 0 and 1; got nan"),
    ],
)
def test_impossible_thresholds_are_refused(detector, thresholds, message):
    with pytest.raises(ArgumentError, match=message):
        detector.detect(chips(), **thresholds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": (1, 2, 3)}, "must agree in number; got 4 and 3"),
        ({"classes": ("hut",)}, "2 classes, names"),
        ({"classes": ("hut", "hut")}, "its own name"),
        ({"classes": "ab"}, "classes must be a list; got 'ab'"),
        ({"classes": None}, "classes must be a list; got None"),
        ({"bands": 4}, "bands must be a list; got 4"),
        ({"classes": ("hut", "te\x00nt")}, r"classes must be names of one line without control .*'te\\x00nt'"),
        ({"classes": ("hut", "\ud800")}, "classes must be names"),
        ({"classes": ("hut", "te\nnt")}, "classes must be names"),
        ({"classes": ("hut", " ")}, "classes must be names"),
        ({"classes": ("hut", 2)}, "classes must be names"),
        ({"bands": (0, 1, 2, 3)}, "bands must be whole numbers, counted from 1; got"),
        ({"bands": "1234"}, "bands must be a list; got '1234'"),
        ({"bands": ("1", "2", "3", "4")}, "bands must be whole numbers"),
        ({"min_score": "high"}, "min_score must lie between 0 and 1; got 'high'"),
        ({"chip_size": 64.5}, "chip_size must be a whole number of pixels; got 64.5"),
        ({"overlap": None}, "overlap must be a whole number of pixels; got None"),
        ({"pixel_size_m": 0}, "pixel_size_m must be metres above 0, or None; got 0"),
        ({"overlap": 64}, "smaller than chip_size; got overlap=64, chip_size=64"),
        ({"min_score": 7}, "min_score"),
        ({"precision": "half"}, "precision"),
        ({"device": "abacus"}, "no device 'abacus' here"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ArgumentError, match=message):
        make(**changes)


def test_a_loaded_detector_is_the_saved_one(small, saved):
    loaded = load_detector(saved, device="cpu", precision="float32")
    names = ["classes", "bands", "normalization", "chip_size", "overlap", "pixel_size_m", "min_score", "summary"]
    assert [getattr(loaded, name) for name in names] == [getattr(small, name) for name in names]
    assert loaded.network.architecture == small.network.architecture
    assert not loaded.network.training
    assert_same(loaded.detect(chips(), min_score=ANY), small.detect(chips(), min_score=ANY))


def test_batch_norms_are_loaded_as_they_were_trained(detector, tmp_path):
    detector.network.set_norm_eps(0.0)
    loaded = load_detector(detector.save(tmp_path / "zero.safetensors"))
    detector.network.set_norm_eps(1e-5)
    assert loaded.network.backbone.body.bn1.eps == 0


def test_the_file_can_be_read_without_us(small, saved):
    assert json.loads(metadata(saved)["classes"]) == small.classes
    assert metadata(saved)["format_version"] == "4"
    assert set(load_file(saved)) == set(small.network.state_dict())


def test_saving_replaces_a_file_and_leaves_nothing_else(detector, tmp_path):
    path = tmp_path / "huts.safetensors"
    path.write_text("old")
    assert detector.save(str(path)) == path
    load_detector(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("huts.pt", "as one .safetensors file; got 'huts.pt'"),
        ("nowhere/huts.safetensors", "there is no folder .*nowhere"),
        ("folder.safetensors", "is a folder"),
    ],
)
def test_places_that_cannot_be_written_are_refused(detector, tmp_path, name, message):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OutputError, match=message):
        detector.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


def metadata(path: Path) -> dict[str, str]:
    length = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]


def rewrite(path: Path, *, weights=None, lacking=(), **changes) -> None:
    """Change a file as a program would that knows the format: its checksum is that of the new content."""
    weights = weights or load_file(path)
    facts = {key: value for key, value in (metadata(path) | changes).items() if key not in lacking}
    save_file(weights, path, facts | {"checksum": file.checksum(facts, weights)})


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_detector(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "huts.safetensors", "there is no model file .*huts.safetensors")
    refused(tmp_path, "holds neither a config.json")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle in a zip, say", b"\xff" * 100])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "huts.safetensors"
    path.write_bytes(content)
    refused(path, "not a whole safetensors file")


@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, part):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * part)])
    refused(saved, "not a whole safetensors file")


def test_a_flipped_bit_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    content[-5000] ^= 1
    saved.write_bytes(content)
    refused(saved, "is damaged: .* checksum .*; copy or save it again")


FACTS = {
    "backbone": "resnet18",
    "anchors": {"scales": [1.0], "ratios": [0.5], "anchor_size": 4.0, "levels": [3, 7]},
    "norm_eps": None,
    "head_norm": "batch",
    "width": 96,
    "depth": 2,
    "classes": ["hut", "höhle"],
    "bands": [1, 2],
    "stretch": {"mean": [127.5, 3e-5], "std": [33.0, 1.0]},
    "chip_size": 256,
    "overlap": 64,
    "pixel_size_m": 0.3,
    "min_score": {"hut": 0.4, "höhle": 0.5},
    "summary": {"epochs": 3, "valid_loss": 0.25},
}


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])  # each place of a byte, and every bit
def test_every_bit_of_a_file_is_covered(tmp_path, step):
    weights = {"head.weight": torch.arange(6.0).reshape(2, 3), "norm.steps": torch.tensor(7)}
    path = file.write(tmp_path / "huts.safetensors", weights, Metadata.from_json(FACTS))
    content, whole = path.read_bytes(), file.read(path)
    n_refused = n_harmless = 0
    for bit in range(0, 8 * len(content), step):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            got, read = file.read(path)
        except ModelError:
            n_refused += 1
        else:
            n_harmless += 1
            assert read == whole[1]
            assert all(torch.equal(got[name], value) for name, value in whole[0].items())
            assert all(got[name].dtype == value.dtype for name, value in whole[0].items())
    assert n_refused > 100 * n_harmless  # blanks that JSON does not mind


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(small, saved):
    name = "class_head.out.weight"
    weights, facts = file.read(saved)
    assert name in weights
    weights[name][0, 0, 0, 0] = math.nan
    file.write(saved, weights, facts)
    refused(saved, rf"1 tensors of .*huts\.safetensors hold NaN or infinity, such as {name}")
    broken = deepcopy(small)
    with torch.no_grad():
        broken.network.class_head.out.weight[0, 0, 0, 0] = math.inf
    with pytest.raises(ModelError, match="1 tensors of the network hold NaN or infinity"):
        broken.save(saved)


@pytest.mark.parametrize("layer", ["class_head", "box_head"])
def test_nan_from_the_network_is_an_error_and_not_an_empty_result(small, layer):
    broken = deepcopy(small)
    with torch.no_grad():
        getattr(broken.network, layer).out.bias[0] = math.nan  # of one class, or one side of boxes
    with pytest.raises(ModelError, match=r"gives NaN for these pixels; .* nodata=.*\(this is float32\)"):
        broken.detect(chips(), min_score=0.9)


@pytest.mark.parametrize("lacking", ["checksum", "format_version", "classes"])
def test_a_new_file_is_never_taken_for_an_older_one(saved, lacking):
    facts = {key: value for key, value in metadata(saved).items() if key != lacking}
    save_file(load_file(saved), saved, facts)
    refused(saved, "is damaged")
    for version in ("1", "2"):
        save_file(load_file(saved), saved, facts | {"format_version": version})
        refused(saved, "is damaged")


def test_files_of_version_2_are_read(small, saved):
    weights, crc = load_file(saved), 0
    for name in sorted(weights):
        crc = zlib.crc32(weights[name].numpy().tobytes(), crc)
    save_file(weights, saved, metadata(saved) | {"format_version": "2", "checksum": f"{crc:08x}"})
    loaded = load_detector(saved, device="cpu", precision="float32")
    assert loaded.min_score == small.min_score
    assert_same(loaded.detect(chips(), min_score=ANY), small.detect(chips(), min_score=ANY))
    save_file(weights, saved, metadata(saved) | {"checksum": f"{crc ^ 1:08x}"})
    refused(saved, "is damaged")


@pytest.mark.parametrize(("then", "now"), [("true", "group"), ("false", None)])
def test_files_of_version_3_say_whether_heads_have_group_norm(detector, tmp_path, then, now):
    network = trained(
        Network(Architecture("resnet18", head_norm=now), n_classes=2, n_bands=len(detector.bands), weights=None)
    )
    older = Detector(network.eval(), detector.metadata, precision="float32")
    path = older.save(tmp_path / "huts.safetensors")
    rewrite(path, lacking=["width", "depth"], head_norm=then, format_version="3")
    loaded = load_detector(path, device="cpu", precision="float32")
    assert loaded.network.architecture == older.network.architecture
    assert_same(loaded.detect(chips(), min_score=ANY), older.detect(chips(), min_score=ANY))


@pytest.mark.parametrize(("name", "value"), [("head_norm", '"layer"'), ("width", '"96"'), ("depth", "0")])
def test_heads_that_cannot_be_are_refused(saved, name, value):
    rewrite(saved, **{name: value})
    refused(saved, f"metadata of .* are damaged: {name} must be")


def test_facts_that_are_not_there_are_named(saved):
    rewrite(saved, lacking=["overlap"])
    refused(saved, "lack overlap; save the detector again")


def test_a_disk_that_is_full_leaves_the_file_that_was_there(detector, tmp_path):
    path = detector.save(tmp_path / "huts.safetensors")
    before = path.read_bytes()
    refusal = r"huts.safetensors cannot be written: .*before is unchanged; choose"
    with full_disk(1 << 20), pytest.raises(OutputError, match=refusal):
        detector.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_a_killed_process_left_unfinished_goes_in_time(detector, tmp_path):
    old, new, other = (tmp_path / f".{name}.part.safetensors" for name in ("huts.1", "huts.2", "tents.1"))
    for part in (old, new, other):
        part.write_bytes(b"unfinished")
    for part in (old, other):
        os.utime(part, (0, 0))
    path = detector.save(tmp_path / "huts.safetensors")
    assert sorted(tmp_path.iterdir()) == sorted([path, new, other])


def test_the_longest_name_that_the_disk_takes_is_saved(detector, tmp_path):
    path = tmp_path / f"{'ü' * 121}.safetensors"  # 254 bytes
    assert load_detector(detector.save(path)).classes == detector.classes


def test_weights_of_another_program_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    refused(path, "not a detector that geodetect saved")
    save_file({"weight": torch.zeros(3)}, path)
    refused(path, "not a detector that geodetect saved")


def test_files_of_version_1_are_read(tmp_path):
    """The file was written by the code of version 1, and what it found then; neither is ever written again."""
    kept = Path(version_1.__file__).parent
    path = tmp_path / "version_1.safetensors"
    path.write_bytes(lzma.decompress((kept / "version_1.safetensors.xz").read_bytes()))
    loaded, made = load_detector(path, device="cpu", precision="float32"), version_1.detector()
    names = ["classes", "bands", "normalization", "chip_size", "overlap", "pixel_size_m", "min_score", "summary"]
    assert [getattr(loaded, name) for name in names] == [getattr(made, name) for name in names]
    assert loaded.network.architecture == made.network.architecture
    assert loaded.network.architecture.norm_eps == 1e-4
    rows = np.array(json.loads((kept / "version_1.json").read_text()))
    (found,) = loaded.detect(version_1.chip(), min_score=0.6)
    np.testing.assert_allclose(found.xyxy, rows[:, :4], atol=0.01)
    np.testing.assert_array_equal(found.labels, rows[:, 4])
    np.testing.assert_allclose(found.scores, rows[:, 5], atol=1e-3)


def test_a_newer_format_is_refused(saved):
    rewrite(saved, format_version="6")
    refused(saved, "format version 6, this geodetect reads up to 5; update geodetect")


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": "not json"},
        {"classes": "7"},
        {"classes": '["hut"]'},
        {"stretch": '{"mean": [1]}'},
        {"backbone": '"resnet17"'},
        {"anchors": "null"},
        {"chip_size": '"large"'},
        {"bands": "[]"},
    ],
)
def test_damaged_metadata_are_refused(saved, changes):
    rewrite(saved, **changes)
    refused(saved, "metadata of .* are damaged|do not fit")


def test_weights_that_do_not_fit_are_named(saved):
    weights = load_file(saved)
    del weights["box_head.out.bias"]
    weights["class_head.out.weight"] = torch.zeros(3)
    rewrite(saved, weights=weights)
    refused(saved, "2 tensors are .* such as box_head.out.bias, class_head.out.weight")


@pytest.mark.parametrize(
    ("scores", "kept"),
    [(float("nan"), 0.5), (None, 0.5), ({"hut": np.float32(0.25), "tent": None}, {"hut": 0.25, "tent": 0.5})],
)
def test_scores_that_nobody_knows_are_saved_as_a_half(tmp_path, scores, kept):
    model = make()
    model.min_score = scores
    assert load_detector(model.save(tmp_path / "model.safetensors")).min_score == kept


def test_a_score_that_is_not_possible_cannot_be_set(tmp_path):
    model = make()
    with pytest.raises(ArgumentError, match="min_score must lie between 0 and 1; got 7"):
        model.min_score = 7.0
    assert 0 <= load_detector(model.save(tmp_path / "model.safetensors"), device="cpu").min_score <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("bands", (1, 2, 3)), ("classes", ["hut", "hut"]), ("chip_size", None), ("pixel_size_m", "0.3")],
)
def test_what_could_not_be_loaded_again_cannot_be_set(name, value):
    model = make()
    with pytest.raises(ArgumentError):
        model.metadata = replace(model.metadata, **{name: value})
    assert getattr(model, name) == getattr(make(), name)


def test_an_absent_device_is_refused(saved):
    with pytest.raises(ArgumentError, match=r"no device 'abacus' here"):
        load_detector(saved, device="abacus")


def test_the_numbers_of_training_are_saved(tmp_path):
    numbers = ValueRange("uint16", [(0, 300, 900, 2000, 4000)] * 4)
    path = make(normalization=replace(NORMALIZATION, value_range=numbers)).save(tmp_path / "huts.safetensors")
    assert load_detector(path, device="cpu").normalization.value_range == numbers


@pytest.mark.parametrize(
    "numbers", ['{"dtype": "uint8"}', '{"dtype": "nibble", "quantiles": [[1, 2, 3, 4, 5]]}', "[1]", "7"]
)
def test_damaged_numbers_are_refused(saved, numbers):
    normalization = json.loads(metadata(saved)["stretch"]) | {"numbers": json.loads(numbers)}
    rewrite(saved, stretch=json.dumps(normalization))
    refused(saved, r"metadata of .*huts\.safetensors are damaged")
