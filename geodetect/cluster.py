"""Work on many machines: tasks out, results back as they come, through dask.

Nothing here knows what the work is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from geodetect.errors import ArgumentError, ClusterError, GeodetectError, missing

Task = TypeVar("Task")
Result = TypeVar("Result")
_TIMEOUT = 10.0
_WAITING = 2  # tasks handed out for each thread: one in work and one at hand; results wait nowhere in numbers


@contextmanager
def connected(address: str, *, timeout_s: float = _TIMEOUT) -> Iterator[Any]:
    """A client of the scheduler at this address.

    Args:
        address: as a scheduler gives it, such as tcp://10.0.0.1:8786.
        timeout_s: how long to wait for an answer, in seconds.

    Raises:
        ClusterError: if none answers there.
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
    """How many workers the cluster has now.

    Raises:
        ArgumentError: if this is no client of a cluster.
        ClusterError: if there are none.
    """
    if not hasattr(client, "scheduler_info"):
        raise ArgumentError(f"client must be a dask.distributed.Client; got {type(client).__name__}")
    n_now = len(client.nthreads())
    if not n_now:
        raise ClusterError("the cluster has no workers; start some with: dask worker ADDRESS")
    return n_now


def run(
    work: Callable[[Task], Result], tasks: Sequence[Task], client: Any
) -> Generator[tuple[Task, Result], None, None]:
    """Each task with its result, in the order in which they are done.

    `work` goes to each worker once. A worker that dies costs its tasks a second try elsewhere. What
    goes wrong in a task is raised here as it is, and ends the others; so does closing the iterator.

    Args:
        work: what to do with a task.
        tasks: handed out as workers become free.
        client: a `dask.distributed.Client`.

    Raises:
        ClusterError: if workers die of one task again and again.
    """
    distributed = _distributed()
    coming = iter(tasks)
    n_ahead = _WAITING * sum(client.nthreads().values())
    shared = client.scatter(work, broadcast=True, hash=False)
    running: dict[Any, Task] = {}

    def submit(n_tasks: int) -> list[Any]:
        handed = {client.submit(_done, shared, task, pure=False): task for task in islice(coming, n_tasks)}
        running.update(handed)
        return list(handed)

    try:
        done = distributed.as_completed(submit(n_ahead))
        for future in done:
            result = future.result()
            if isinstance(result, GeodetectError):
                raise result
            yield running.pop(future), result
            done.update(submit(1))
    except distributed.scheduler.KilledWorker as error:
        raise ClusterError(f"workers of the cluster died again and again: {error}; see their logs") from error
    finally:
        client.cancel(list(running))


def _done(work: Callable[[Task], Result], task: Task) -> Result | GeodetectError:
    """The result, or the error that is to be told: as a result, since not every cause of one can travel."""
    try:
        return work(task)
    except GeodetectError as error:
        return error
