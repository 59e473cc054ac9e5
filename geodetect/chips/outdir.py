"""The folder that chips are written into: whether it may be emptied, and whether a run that was stopped goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from geodetect.addresses import expand_user
from geodetect.chips.formats import IMAGES
from geodetect.errors import ArgumentError, OutputError
from geodetect.locks import held
from geodetect.raster import Rasters, files_of
from geodetect.vector.opening import Area, Vectors, vector_paths

_UNFINISHED = ".unfinished.json"  # the plan of a run that has not ended; lets it start again where it was
_COMPLETE = "export.json"  # what it is called from the end of the run on
_WORKPLACE = ".partial"  # holds what has no name of its own yet


def checked(out_dir: str | Path, *, overwrite: bool) -> Path:
    """The folder to write, if it may be written, as far as can be told before the labels are read.

    Raises:
        ArgumentError: if it is no path.
        OutputError: if it is a file, lies in no folder, or holds something else.
    """
    if not isinstance(out_dir, str | Path) or out_dir == "":
        raise ArgumentError(f"out_dir must be the path of a folder; got {out_dir!r}")
    out_dir = Path(expand_user(out_dir))
    if out_dir.exists() and not out_dir.is_dir():
        raise OutputError(f"out_dir must be a folder; {out_dir} is a file")
    if not out_dir.parent.is_dir():
        raise OutputError(f"the folder {out_dir.parent} does not exist; make it first, or choose another out_dir")
    known = overwrite or not out_dir.exists() or any((out_dir / name).is_file() for name in (_UNFINISHED, _COMPLETE))
    if not known and any(out_dir.iterdir()):
        raise _not_empty(out_dir)
    return out_dir


def _not_empty(out_dir: Path) -> OutputError:
    return OutputError(f"{out_dir} is not empty; choose another folder, or overwrite=True to empty it")


def check_spared(out_dir: Path, raster: Rasters, labels: Vectors, aoi: Area | None) -> None:
    """Refuses to empty a folder that holds what is to be read, or that people work in.

    Raises:
        OutputError: if it is such a folder.
    """
    folder = out_dir.resolve()
    if Path.cwd().is_relative_to(folder):
        raise OutputError(
            f"{out_dir} is the folder you work in, or holds it, and is not emptied; choose another out_dir"
        )
    for file in [*files_of(raster)[0], *vector_paths(labels), *vector_paths(aoi)]:
        path = Path(file)
        # Under its own name, or as what a link leads to.
        if any(each.is_relative_to(folder) for each in (path.parent.resolve() / path.name, path.resolve())):
            raise OutputError(
                f"{out_dir} holds {file}, which is to be read, and is not emptied; choose another out_dir"
            )


def is_complete(out_dir: Path, plan: str, chips: Iterable[Path]) -> bool:
    """Whether this very run has come to its end; False if it is to begin, or to go on.

    Args:
        out_dir: the folder.
        plan: what the run is to write.
        chips: the pictures among it.

    Raises:
        OutputError: if the folder holds another run, or one that lacks a chip since it ended.
    """
    begun, ended = (_read(out_dir / name) for name in (_UNFINISHED, _COMPLETE))
    if ended is not None and (ended != plan or not all(path.is_file() for path in chips)):
        raise _not_empty(out_dir)
    # An empty one is of a run that was killed as it began.
    if begun not in (None, "", plan):
        raise OutputError(
            f"{out_dir} holds a run with other parameters, labels or rasters that was stopped; give the same ones to "
            "go on with it, or overwrite=True to start anew"
        )
    return ended is not None


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


@contextmanager
def started(out_dir: Path, plan: str, *, overwrite: bool) -> Iterator[Path]:
    """The folder made ready, and marked as unfinished until all is written; gives a place for what is not complete."""
    with held(Path(os.path.abspath(out_dir))):
        yield from _begun(out_dir, plan, overwrite=overwrite)


def _begun(out_dir: Path, plan: str, *, overwrite: bool) -> Iterator[Path]:
    marker, workplace = out_dir / _UNFINISHED, out_dir / _WORKPLACE
    try:
        out_dir.mkdir(exist_ok=True)
        if overwrite:
            _empty(out_dir)
        marker.write_text(plan, encoding="utf-8")  # before all else: without it nobody goes on with the rest
        (out_dir / IMAGES).mkdir(exist_ok=True)
        for left in (*out_dir.glob(f"{_WORKPLACE}/"), *(out_dir / IMAGES).glob(".*/")):  # of a run that was killed
            shutil.rmtree(left)
        workplace.mkdir()
        yield workplace
        shutil.rmtree(workplace)
        marker.replace(out_dir / _COMPLETE)
    except OSError as error:
        raise OutputError(f"{out_dir} cannot be written: {error.strerror or error}; choose another out_dir") from error


def _empty(folder: Path) -> None:
    """Takes away what is in a folder; the folder stays, which may be a link or a disk of its own."""
    (folder / _COMPLETE).unlink(missing_ok=True)  # it is not true any more
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()
