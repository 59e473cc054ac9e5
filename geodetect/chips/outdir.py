"""The folder that chips are written into: whether it may be emptied, and whether a stopped run continues."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from geodetect.addresses import expand_user
from geodetect.chips.formats import IMAGES
from geodetect.errors import ArgumentError, OutputError
from geodetect.locks import hold
from geodetect.raster import Rasters, list_files
from geodetect.vector.opening import Area, Vectors, list_paths

_UNFINISHED = ".unfinished.json"  # the plan of a run that has not ended, by which it continues
_COMPLETE = "export.json"  # its name from the end of the run on
_WORKPLACE = ".partial"  # folder of incomplete files


class OutDir:
    """A folder of chips that is written, file by file; each file appears under its name when it is complete.

    Args:
        path: of the folder.
        overwrite: whether to empty it first.

    Raises:
        ArgumentError: if it is no path.
        OutputError: if it is a file, lies in no folder, or holds something else, unless it is to be emptied.
    """

    def __init__(self, path: str | Path, *, overwrite: bool) -> None:
        if not isinstance(path, str | Path) or path == "":
            raise ArgumentError(f"out_dir must be the path of a folder; got {path!r}")
        self.path, self.overwrite = Path(expand_user(path)), overwrite
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"out_dir must be a folder; {self.path} is a file")
        if not self.path.parent.is_dir():
            raise OutputError(f"the folder {self.path.parent} does not exist; make it first, or choose another out_dir")
        known = overwrite or any((self.path / name).is_file() for name in (_UNFINISHED, _COMPLETE))
        if not known and self.path.exists() and any(self.path.iterdir()):
            raise self._not_empty()

    @property
    def workplace(self) -> Path:
        """The folder of incomplete files, while a run writes."""
        return self.path / _WORKPLACE

    def _not_empty(self) -> OutputError:
        return OutputError(f"{self.path} is not empty; choose another folder, or overwrite=True to empty it")

    def check_spared(self, raster: Rasters, labels: Vectors, aoi: Area | None) -> None:
        """Raise if the folder is to be emptied and holds an input, or is the working directory.

        Raises:
            OutputError: if it is such a folder.
        """
        if not self.overwrite:
            return
        folder = self.path.resolve()
        if Path.cwd().is_relative_to(folder):
            raise OutputError(
                f"{self.path} is or holds the working directory, and is not emptied; choose another out_dir"
            )
        for file in [*list_files(raster)[0], *list_paths(labels), *list_paths(aoi)]:
            path = Path(file)
            # Under its own name, or as the target of a link.
            if any(each.is_relative_to(folder) for each in (path.parent.resolve() / path.name, path.resolve())):
                raise OutputError(f"{self.path} holds the input {file}, and is not emptied; choose another out_dir")

    def is_complete(self, plan: str, chips: Iterable[Path]) -> bool:
        """Return whether a run of this plan is complete; False if it is to begin, to continue, or to overwrite.

        Args:
            plan: identifies what the run writes.
            chips: the images that it writes.

        Raises:
            OutputError: if the folder holds another run, or a complete one that lacks a chip.
        """
        if self.overwrite:
            return False
        begun, ended = (
            path.read_text(encoding="utf-8") if (path := self.path / name).is_file() else None
            for name in (_UNFINISHED, _COMPLETE)
        )
        if ended is not None and (ended != plan or not all(path.is_file() for path in chips)):
            raise self._not_empty()
        # An empty one is of a run that was killed at its start.
        if begun not in (None, "", plan):
            raise OutputError(
                f"{self.path} holds a run with other parameters, labels or rasters that was stopped; give the same "
                "ones to continue it, or overwrite=True to start anew"
            )
        return ended is not None

    @contextmanager
    def open(self, plan: str) -> Iterator[None]:
        """Lock the folder, empty it if asked to, and mark it as unfinished until the block has ended.

        Raises:
            OutputError: if another run writes it, or an OSError is raised.
        """
        with hold(Path(os.path.abspath(self.path))):
            try:
                self.path.mkdir(exist_ok=True)
                self._clean(plan)
                self.workplace.mkdir()
                yield
                shutil.rmtree(self.workplace)
                (self.path / _UNFINISHED).replace(self.path / _COMPLETE)
            except OSError as error:
                reason = error.strerror or error
                raise OutputError(f"{self.path} cannot be written: {reason}; choose another out_dir") from error

    def _clean(self, plan: str) -> None:
        """Empty the folder, but keep the folder itself, which may be a link or a mount point."""
        if self.overwrite:
            (self.path / _COMPLETE).unlink(missing_ok=True)  # first, as it is no longer true
            for each in self.path.iterdir():
                if each.is_dir() and not each.is_symlink():
                    shutil.rmtree(each)
                else:
                    each.unlink()
        (self.path / _UNFINISHED).write_text(plan, encoding="utf-8")  # first: without it the rest cannot be continued
        (self.path / IMAGES).mkdir(exist_ok=True)
        for left in (*self.path.glob(f"{_WORKPLACE}/"), *(self.path / IMAGES).glob(".*/")):  # of a run that was killed
            shutil.rmtree(left)

    def write(self, name: str, text: str) -> None:
        """Write a text atomically; without `files.replace_atomically`, which syncs every file."""
        path, part = self.path / name, self.workplace / Path(name).name
        path.parent.mkdir(exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="")
        part.replace(path)
