"""Many machines give what one gives, feature for feature, also when one of them dies."""

import os
import signal
import time
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from geodetect import cluster, detect_objects
from geodetect.errors import ArgumentError, ClusterError, ModelError, RasterError
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization
from tests.fakes import PaintDetector, PaintedScene, make_detector
from tests.test_restart import content, tall, undisturbed

distributed = pytest.importorskip("distributed")
__all__ = ["tall", "undisturbed"]  # fixtures


@pytest.fixture(scope="module")
def client():
    """Two processes of one thread each."""
    with started(2) as client:
        yield client


@contextmanager
def started(n_workers):
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "worker_dashboard_address": None}
    with distributed.LocalCluster(n_workers=n_workers, **options) as local, distributed.Client(local) as client:
        yield client


@dataclass(frozen=True)
class DiesOnce(PaintDetector):
    """A detector that takes the process it runs in down with it, the first time."""

    mark: str = ""

    def detect(self, pixels):
        with suppress(FileExistsError):
            Path(self.mark).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect(pixels)


@dataclass(frozen=True)
class Fails(PaintDetector):
    """A detector that gives no answer."""

    def detect(self, pixels):
        return []


@dataclass(frozen=True)
class Stops(PaintDetector):
    """A detector that gives no answer to what lies below row 1100, as long as the mark stands."""

    mark: str = ""

    def detect(self, pixels):
        if Path(self.mark).exists() and pixels[:, 1, 0, 0].max() > 1100:
            return []
        return super().detect(pixels)


@dataclass(frozen=True)
class Movable(PaintDetector):
    """A detector whose scores say where it runs."""

    def frozen(self, precision=None, device=None):
        return replace(self, score=0.9 if device is None else 0.7)


@dataclass(frozen=True)
class Chooses(PaintDetector):
    """A detector that chooses precision and batch size by the process it is in."""

    precision: str = "auto"
    home: int = 0

    def frozen(self, precision=None, device=None):
        return replace(self, precision=precision or ("float32" if os.getpid() == self.home else "bf16"))

    def suited_batch_size(self, chip_size):
        return 5 if os.getpid() == self.home else 3


@dataclass(frozen=True)
class Raises(PaintDetector):
    """A detector with an error of its own."""

    def detect(self, pixels):
        raise LookupError("mine")


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cancel(number: int) -> None:
    raise CancelledError("mine")


def twice(number: int) -> int:
    if number == 13:
        raise ModelError("13 is not to be doubled")
    return 2 * number


@pytest.mark.slow
def test_each_task_comes_back_once_with_its_result(client):
    assert dict(cluster.run(twice, range(10), client)) == {number: 2 * number for number in range(10)}
    assert list(cluster.run(twice, [], client)) == []


@pytest.mark.slow
def test_what_goes_wrong_in_a_task_is_raised_as_it_is(client):
    with pytest.raises(ModelError, match="13 is not to be doubled"):
        list(cluster.run(twice, range(30), client))
    assert dict(cluster.run(twice, [1], client)) == {1: 2}


@pytest.mark.slow
def test_two_processes_give_what_one_gives(client, tall, undisturbed, tmp_path):
    found = detect_objects(tall, PaintDetector(), client=client, batch_size=2, progress=False)
    assert [row[:2] for row in undisturbed] == list(zip(found["label"], found["score"], strict=True))
    path = tmp_path / "found.gpkg"
    assert content(detect_objects(tall, PaintDetector(), path, client=client, batch_size=2)) == undisturbed
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_angles_come_back_from_other_processes(client, tall):
    model = PaintDetector(oriented=True)
    found, here = (detect_objects(tall, model, client=each, batch_size=2, progress=False) for each in (client, None))
    assert len(found)
    assert found["angle_deg"].tolist() == here["angle_deg"].tolist()
    assert found.geometry.tolist() == here.geometry.tolist()


@pytest.mark.slow
def test_models_run_on_the_device_that_was_asked_for(client, tall):
    found = detect_objects(tall, Movable(), client=client, device="cpu", batch_size=2, progress=False)
    assert set(found["score"]) == {0.7}
    assert set(detect_objects(tall, Movable(), client=client, batch_size=2, progress=False)["score"]) == {0.9}


@pytest.mark.slow
def test_a_model_that_is_a_file_is_loaded_where_it_was_asked_for(client, tall, tmp_path):
    network = Network("resnet18", n_classes=2, weights=None)
    network.class_head.out.bias.data.fill_(-20)  # it finds nothing
    options = {
        "bands": (1, 2, 3),
        "normalization": Normalization((1e4,) * 3, (2e4,) * 3),
        "chip_size": 64,
        "overlap": 16,
    }
    path = make_detector(network, ("red", "blue"), **options).save(tmp_path / "model.safetensors")
    devices = []

    class Watched:
        """The client, whose work is looked at on its way."""

        def __getattr__(self, name):
            return getattr(client, name)

        def scatter(self, work, **options):
            devices.append((getattr(work, "__self__", None) or work.model).device)
            return client.scatter(work, **options)

    for device in ("cpu", None):
        detect_objects(tall, path, client=Watched(), device=device, batch_size=64, progress=False)
    assert devices == ["cpu", "cpu", None, None]  # to choose the precision, and to scan
    assert len(detect_objects(tall, tmp_path, client=client, batch_size=64, progress=False)) == 0  # its folder


@pytest.mark.slow
def test_an_error_of_the_model_comes_back_as_itself_and_says_where(client, tall):
    with pytest.raises(LookupError, match=r"mine\n.*the window x \d+ to") as caught:
        detect_objects(tall, Raises(), client=client, batch_size=2, progress=False)
    assert caught.type is LookupError


@pytest.mark.slow
def test_a_worker_that_dies_costs_a_second_try(client, tall, undisturbed, tmp_path):
    model = DiesOnce(mark=str(tmp_path / "mark"))
    path = detect_objects(tall, model, tmp_path / "found.gpkg", client=client, batch_size=2, progress=False)
    assert (tmp_path / "mark").exists()
    assert content(path) == undisturbed
    client.wait_for_workers(2)


@pytest.mark.slow
def test_when_all_workers_die_at_once_their_work_is_sent_again(tall, undisturbed, tmp_path):
    model = DiesOnce(mark=str(tmp_path / "mark"))
    with started(1) as client:
        path = detect_objects(tall, model, tmp_path / "found.gpkg", client=client, batch_size=2, progress=False)
    assert (tmp_path / "mark").exists()
    assert content(path) == undisturbed


@pytest.mark.slow
def test_work_waits_for_workers_that_are_about_to_come_back():
    with started(1) as client:
        for pid in client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)
        while client.nthreads():
            time.sleep(0.01)
        assert dict(cluster.run(twice, range(5), client)) == {number: 2 * number for number in range(5)}


@pytest.mark.slow
def test_errors_of_a_task_are_not_taken_for_those_of_the_cluster(client):
    with pytest.raises(CancelledError, match="mine"):
        list(cluster.run(cancel, [1], client))


@pytest.mark.slow
def test_a_client_that_is_closed_in_between_is_one_sentence():
    with started(1) as client:
        done = cluster.run(twice, range(5), client)
        next(done)
        client.close()
        with pytest.raises(ClusterError, match="the client was closed before all was done"):
            list(done)


@pytest.mark.slow
def test_work_that_kills_all_workers_again_and_again_is_given_up():
    with started(1) as client, pytest.raises(ClusterError, match="workers of the cluster died again and again"):
        list(cluster.run(die, range(3), client))


@pytest.mark.slow
def test_what_many_machines_have_done_one_goes_on_with(client, tall, undisturbed, tmp_path):
    mark = tmp_path / "mark"
    mark.write_text("stands")
    model = Stops(mark=str(mark))
    with pytest.raises(ModelError, match=r"detect must give .* strips are kept in found\.journal: go on with"):
        detect_objects(tall, model, tmp_path / "found.gpkg", client=client, batch_size=2, progress=False)
    mark.unlink()
    path = detect_objects(tall, model, tmp_path / "found.gpkg", resume=True, batch_size=2, progress=False)
    assert content(path) == undisturbed


@pytest.mark.slow
def test_a_block_that_cannot_be_read_is_told_with_its_place(client, tall, tmp_path):
    broken = tmp_path / "tall.tif"
    broken.write_bytes(tall.read_bytes()[:-200_000])
    with pytest.raises(RasterError, match=r"tall\.tif cannot be read at pixels x \d+ to \d+, y 1[2-9]\d\d"):
        detect_objects(broken, PaintDetector(), tmp_path / "found.gpkg", client=client, batch_size=2, progress=False)
    assert not (tmp_path / "found.gpkg").exists()


@pytest.mark.slow
def test_an_error_on_a_worker_is_one_sentence(client, tall):
    with pytest.raises(ModelError, match="detect must give a list of 2 Boxes"):
        detect_objects(tall, Fails(), client=client, batch_size=2, progress=False)


@pytest.mark.slow
def test_the_command_line_takes_the_address_of_a_scheduler(client, tall, undisturbed, tmp_path):
    with cluster.connect(client.scheduler.address) as again:
        found = detect_objects(tall, PaintDetector(), client=again, batch_size=2, progress=False)
    assert [row[:2] for row in undisturbed] == list(zip(found["label"], found["score"], strict=True))


@pytest.mark.slow
def test_precision_and_batch_size_are_chosen_on_a_worker(client, tall):
    model = Chooses(home=os.getpid())
    found = detect_objects(tall, model, client=client, progress=False)
    assert (found.attrs["precision"], found.attrs["batch_size"]) == ("bf16", 3)
    here = detect_objects(tall, model, progress=False)
    assert (here.attrs["precision"], here.attrs["batch_size"]) == ("float32", 5)
    asked = detect_objects(tall, model, client=client, precision="float16", batch_size=4, progress=False)
    assert (asked.attrs["precision"], asked.attrs["batch_size"]) == ("float16", 4)
    assert found.geometry.tolist() == here.geometry.tolist() == asked.geometry.tolist()


def one_gpu():
    return ("GPU-1",)


@pytest.mark.slow
def test_workers_with_the_same_gpus_have_different_numbers(client):
    numbers = cluster.number_workers(client, one_gpu)
    assert sorted(numbers.values()) == [0, 1]
    assert set(cluster.number_workers(client, os.getpid).values()) == {0}  # as those of dask-cuda
    own = dict(cluster.run(partial(_own, numbers), range(8), client))
    assert set(own.values()) <= {0, 1}


def _own(numbers, task):
    return cluster.own_number(numbers)


def test_an_address_where_nobody_answers_is_one_sentence():
    with pytest.raises(
        ClusterError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9: .*start one with: dask sched"
    ):
        with cluster.connect("tcp://127.0.0.1:9", timeout_s=0.5):
            pass


def test_what_is_no_client_is_refused(upright: PaintedScene):
    with pytest.raises(ArgumentError, match=r"client must be a dask\.distributed\.Client; got str"):
        detect_objects(upright.path, PaintDetector(), client="tcp://127.0.0.1:9", progress=False)
