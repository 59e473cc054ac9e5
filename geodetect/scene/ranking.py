"""External sort of any number of boxes by score in bounded memory: sorted runs on disk, merged.

Shapes: N boxes, each a row x1, y1, x2, y2, label, score of float64.
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
_N_COLUMNS = 6


class Ranking:
    """A collection of detections, sorted in the order of `Boxes.rank`.

    Args:
        folder: where to store boxes beyond `run_size`; None: keep all in memory.
        run_size: number of boxes in memory before they go to disk.
        chunk_size: number of boxes of each run in memory during the merge.
    """

    def __init__(self, folder: Path | None = None, *, run_size: int = _RUN_SIZE, chunk_size: int = _CHUNK_SIZE) -> None:
        self._folder, self._run_size, self._chunk_size = folder, run_size, chunk_size
        self._newest: list[Boxes] = []
        self._n_newest = 0
        self._runs: list[_Run] = []

    def add(self, boxes: Boxes) -> None:
        """Add boxes with scores."""
        self._newest.append(boxes)
        self._n_newest += len(boxes)
        if self._folder is not None and self._n_newest >= self._run_size:
            self._runs.append(_Run.written(self._folder / f"run-{len(self._runs)}", self._in_memory()))
            self._newest, self._n_newest = [], 0

    def _in_memory(self) -> Boxes:
        """Return the boxes that are not on disk, highest score first."""
        boxes = Boxes.concat(self._newest, scored=True)
        return boxes[boxes.rank()]

    def __iter__(self) -> Iterator[Boxes]:
        """Yield all boxes in chunks, in no particular order; may be iterated repeatedly."""
        for run in self._runs:
            for start in range(0, run.n_boxes, self._run_size):
                yield _boxes(run.read(start, self._run_size))
        yield from self._newest

    def ranked(self) -> Iterator[Boxes]:
        """Yield all boxes in chunks, highest score first.

        The next chunk of every run is in memory. Boxes that rank above the last loaded box of every
        unfinished run cannot be outranked by unread ones, and are yielded.
        """
        pool = [np.zeros((0, _N_COLUMNS)) for _ in self._runs] + [_rows(self._in_memory())]
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
    """

    path: Path
    n_boxes: int

    @classmethod
    def written(cls, path: Path, boxes: Boxes) -> _Run:
        _rows(boxes).tofile(path)
        return cls(path, len(boxes))

    def read(self, start: int, n_boxes: int) -> Float[np.ndarray, "N 6"]:
        """Return `n_boxes` rows from `start` on, fewer at the end."""
        row_bytes = _N_COLUMNS * np.dtype(float).itemsize
        return np.fromfile(self.path, float, n_boxes * _N_COLUMNS, offset=start * row_bytes).reshape(-1, _N_COLUMNS)


def _rows(boxes: Boxes) -> Float[np.ndarray, "N 6"]:
    assert boxes.scores is not None
    return np.column_stack([boxes.xyxy, boxes.labels, boxes.scores])


def _boxes(rows: Float[np.ndarray, "N 6"]) -> Boxes:
    return Boxes(rows[:, :4], rows[:, 4], rows[:, 5])
