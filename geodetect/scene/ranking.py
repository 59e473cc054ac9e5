"""External sort of any number of boxes by score in bounded memory: sorted runs on disk, merged.

Shapes: N boxes, each a row x1, y1, x2, y2, label, score of float64, and an angle if oriented; F of these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from geodetect.boxes import Boxes

_RUN_SIZE = 1 << 19  # boxes sorted in memory at once
_CHUNK_SIZE = 1 << 14  # boxes of each run in memory while runs are merged


class Ranking:
    """A collection of detections, sorted in the order of `Boxes.rank`.

    Args:
        folder: where to store boxes beyond `run_size`; None: keep all in memory.
        run_size: number of boxes in memory before they go to disk.
        chunk_size: number of boxes of each run in memory during the merge.
        oriented: whether the boxes have angles.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        run_size: int = _RUN_SIZE,
        chunk_size: int = _CHUNK_SIZE,
        oriented: bool = False,
    ) -> None:
        self._folder, self._run_size, self._chunk_size = folder, run_size, chunk_size
        self._none = Boxes.empty(scored=True, oriented=oriented)
        self._newest: list[Boxes] = []
        self._n_newest = 0
        self._runs: list[_Run] = []

    def add(self, boxes: Boxes) -> None:
        """Add boxes with scores."""
        self._newest.append(boxes)
        self._n_newest += len(boxes)
        if self._folder is not None and self._n_newest >= self._run_size:
            self._runs.append(_Run.write(self._folder / f"run-{len(self._runs)}", self._in_memory()))
            self._newest, self._n_newest = [], 0

    def _in_memory(self) -> Boxes:
        """Return the boxes that are not on disk, highest score first."""
        boxes = Boxes.concat([self._none, *self._newest])
        return boxes[boxes.rank()]

    def __iter__(self) -> Iterator[Boxes]:
        """Yield all boxes in chunks, in no particular order; may be iterated repeatedly."""
        for run in self._runs:
            for start in range(0, run.n_boxes, self._run_size):
                yield _boxes(run.read(start, self._run_size))
        yield from self._newest

    def all(self) -> Boxes:
        """Return all boxes at once, highest score first."""
        return Boxes.concat([self._none, *self.ranked()])

    def ranked(self) -> Iterator[Boxes]:
        """Yield all boxes in chunks, highest score first.

        The next chunk of every run is in memory. Boxes that rank above the last loaded box of every
        unfinished run cannot be outranked by unread ones, and are yielded.
        """
        pool = [_rows(self._none) for _ in self._runs] + [_rows(self._in_memory())]
        n_read = [0] * len(self._runs)
        while True:
            for k, run in enumerate(self._runs):
                if not len(pool[k]):
                    pool[k] = run.read(n_read[k], self._chunk_size)
                    n_read[k] += len(pool[k])
            if not sum(map(len, pool)):
                return
            rows, owner = np.concatenate(pool), np.repeat(np.arange(len(pool)), [len(part) for part in pool])
            order = _boxes(rows).rank()
            rank = np.argsort(order)
            goes_on = [k for k, run in enumerate(self._runs) if n_read[k] < run.n_boxes]
            ends = np.cumsum([len(part) for part in pool]) - 1
            n_certain = min((int(rank[ends[k]]) + 1 for k in goes_on), default=len(rows))
            yield _boxes(rows[order[:n_certain]])
            left = order[n_certain:]
            pool = [rows[left[owner[left] == k]] for k in range(len(pool))]


@dataclass(frozen=True)
class _Run:
    """Sorted boxes in a file, read in chunks: a memory map would count as used memory.

    Args:
        path: file of consecutive float64 rows.
        n_boxes: number of rows.
        n_columns: numbers in a row.
    """

    path: Path
    n_boxes: int
    n_columns: int

    @classmethod
    def write(cls, path: Path, boxes: Boxes) -> _Run:
        """Write boxes that are already sorted to a new file."""
        rows = _rows(boxes)
        rows.tofile(path)
        return cls(path, *rows.shape)

    def read(self, start: int, n_boxes: int) -> Float[np.ndarray, "N F"]:
        """Return `n_boxes` rows from `start` on, fewer at the end."""
        row_bytes = self.n_columns * np.dtype(float).itemsize
        values = np.fromfile(self.path, float, n_boxes * self.n_columns, offset=start * row_bytes)
        return values.reshape(-1, self.n_columns)


def _rows(boxes: Boxes) -> Float[np.ndarray, "N F"]:
    assert boxes.scores is not None
    columns = [boxes.xyxy, boxes.labels, boxes.scores]
    return np.column_stack(columns if boxes.angles is None else [*columns, boxes.angles])


def _boxes(rows: Float[np.ndarray, "N F"]) -> Boxes:
    return Boxes(rows[:, :4], rows[:, 4], rows[:, 5], *rows[:, 6:].T)
