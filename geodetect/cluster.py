"""Running tasks on many machines through dask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

from geodetect.errors import ArgumentError, ClusterError, GeodetectError, missing

Task = TypeVar("Task")
Result = TypeVar("Result")
_TIMEOUT = 10.0
_WAITING = 2  # tasks per thread: one running and one queued, so that few results wait
_LOSSES = 3  # of all workers at once, without a result between them


@contextmanager
def connect(address: str, *, timeout_s: float = _TIMEOUT) -> Iterator[Any]:
    """Connect to the scheduler at an address, and yield a client.

    Args:
        address: as the scheduler prints it, such as tcp://10.0.0.1:8786.
        timeout_s: time to wait for an answer, in seconds.

    Raises:
        ClusterError: if no scheduler answers.
        MissingPackage: if dask is not installed.
    """
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=timeout_s)
    except (OSError, ValueError) as error:  # ValueError: not an address
        raise ClusterError(f"no scheduler answers at {address}: {error}; start one with: dask scheduler") from error
    with client:
        yield client


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise missing("distributed", "cluster", "Work on many machines") from error
    return distributed


def n_workers(client: Any) -> int:
    """Return the present number of workers of a cluster.

    Raises:
        ArgumentError: if `client` is not a client of dask.
        ClusterError: if there is no worker.
    """
    if not hasattr(client, "scheduler_info"):
        raise ArgumentError(f"client must be a dask.distributed.Client; got {type(client).__name__}")
    n_now = len(client.nthreads())
    if not n_now:
        raise ClusterError("the cluster has no workers; start some with: dask worker ADDRESS")
    return n_now


def number_workers(client: Any, view: Callable[[], Hashable]) -> dict[Any, int]:
    """Return a number for each worker by its name, from 0 among those with the same view.

    Args:
        client: of the cluster.
        view: function that each worker runs, such as one that lists what it may use.

    Raises:
        ArgumentError: if `client` is not a client of dask.
        ClusterError: if there is no worker.
    """
    n_workers(client)
    numbers: dict[Any, int] = {}
    n_alike: Counter[Hashable] = Counter()
    for _, (name, seen) in sorted(client.run(partial(_named, view)).items()):  # by address
        numbers[name] = n_alike[seen]
        n_alike[seen] += 1
    return numbers


def _named(view: Callable[[], Hashable], dask_worker: Any) -> tuple[Any, Hashable]:
    return dask_worker.name, view()


def own_number(numbers: Mapping[Any, int]) -> int:
    """Return the number of the worker that runs this task; 0 if it joined later. A restarted one keeps its name."""
    return numbers.get(_distributed().get_worker().name, 0)


def run(
    work: Callable[[Task], Result], tasks: Sequence[Task], client: Any
) -> Generator[tuple[Task, Result], None, None]:
    """Run tasks on a cluster, and yield each with its result as soon as it is done.

    `work` is sent to each worker once, and again if all that had it died. If a worker dies, its tasks are run again on
    another. An error in a task is raised here unchanged and cancels the other tasks, as closing the iterator does.

    Args:
        work: function of a task.
        tasks: submitted as workers become free.
        client: a `dask.distributed.Client`.

    Raises:
        ClusterError: if a task repeatedly kills its worker, or neither scheduler nor worker is left.
    """
    distributed = _distributed()
    coming = iter(tasks)
    crew = _Crew(work, client)
    n_ahead = _WAITING * max(1, sum(client.nthreads().values()))  # none while the only worker starts again
    try:
        done = distributed.as_completed(crew.submit(islice(coming, n_ahead)))
        for future in done:
            try:
                result = future.result()
            except CancelledError as error:
                if not future.cancelled():
                    raise  # an error of the task's own
                done.update(crew.submit_again(future, error))
                continue
            if isinstance(result, GeodetectError):
                raise result
            yield crew.finish(future), result
            done.update(crew.submit(islice(coming, 1)))
    except distributed.scheduler.KilledWorker as error:
        raise ClusterError(_describe_deaths(error)) from error
    except distributed.client.ClosedClientError as error:
        raise ClusterError(f"the client was closed before all was done: {error}") from error
    finally:
        if client.status != "closed":
            client.cancel(list(crew.running))


class _Crew(Generic[Task]):
    """The workers of a cluster, to whom the work is sent once, and again if all that had it died.

    Args:
        work: function of a task.
        client: of the cluster.

    Raises:
        ClusterError: if neither scheduler nor worker answers within dask's timeout for connections.
    """

    def __init__(self, work: Callable[[Task], Any], client: Any) -> None:
        self.running: dict[Any, Task] = {}
        self._work, self._client, self._n_losses = work, client, 0
        self._shared = self._share()

    def submit(self, tasks: Iterable[Task]) -> list[Any]:
        """Submit tasks, and return their futures."""
        handed = {self._client.submit(_attempt, self._shared, task, pure=False): task for task in tasks}
        self.running.update(handed)
        return list(handed)

    def finish(self, future: Any) -> Task:
        """Return the task of a future, which is done."""
        self._n_losses = 0
        return self.running.pop(future)

    def submit_again(self, future: Any, error: CancelledError) -> list[Any]:
        """Submit the task of a future that was cancelled, and return the new future.

        Raises:
            ClusterError: if all workers died again and again, or none comes back.
        """
        if self._shared.cancelled():  # dask gave up all that needs it
            self._n_losses += 1
            if self._n_losses == _LOSSES:
                raise ClusterError(_describe_deaths(error)) from error
            self._shared = self._share()
        return self.submit([self.running.pop(future)])

    def _share(self) -> Any:
        try:
            return self._client.scatter(self._work, broadcast=True, hash=False)
        except OSError as error:
            raise ClusterError(f"the cluster is gone: {error}; see the logs of its scheduler and workers") from error


def _describe_deaths(error: BaseException) -> str:
    return f"workers of the cluster died again and again: {error}; see their logs"


def _attempt(work: Callable[[Task], Result], task: Task) -> Result | GeodetectError:
    """Return the result of a task, or its error: as a result, since not every cause of an error can be pickled."""
    try:
        return work(task)
    except GeodetectError as error:
        return error
