"""Intermediate results on disk, so that an interrupted run can be resumed.

A journal is a folder beside the output. It holds the settings of the run and one Arrow table per strip, in a file
with its checksum in its name. Files are only ever added, in any order and atomically. So an interruption at any
moment leaves whole strips, and an incomplete one counts as not done.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from jaxtyping import Bool, UInt8

from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError, OutputError
from geodetect.files import follow_link
from geodetect.scene.edges import Parts
from geodetect.scene.scan import Strip

_VERSION = 2  # of the files; 2 added the ground that was searched
_SETTINGS = "settings.json"
_UNFINISHED = "unfinished"  # folder inside for outputs in progress
_STRIP = re.compile(r"strip-(\d+)-([0-9a-f]{8})\.arrow")
_OURS = re.compile(rf"(?:{_STRIP.pattern}|{re.escape(_SETTINGS)})(?:\.part)?|{_UNFINISHED}")
_SYSTEMS = re.compile(r"\..*|desktop\.ini|Thumbs\.db", re.IGNORECASE)  # created by macOS, Windows and NFS
_SETTLED, _HELD, _PART = range(3)
_SHOWN = 60  # characters of a setting in a message


def journal_of(output: Path) -> Path:
    """Return the journal folder of an output; it does not depend on the format, so one may resume from another's.

    It is on the same disk as the output, so for a link beside its target.
    """
    return follow_link(output).with_suffix(".journal")


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the run whose journal is in the folder; empty if there is no journal.

    Raises:
        OutputError: on a checksum mismatch: strips of another run would be taken for this run's.
    """
    try:
        settings = dict(json.loads((folder / _SETTINGS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
    if settings.pop("checksum", _checksum(settings)) != _checksum(settings):  # journals once had none
        raise OutputError(f"{folder / _SETTINGS} is damaged; start anew without resume")
    return settings


def _checksum(settings: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in settings.items() if name != "checksum"}
    return f"{zlib.crc32(json.dumps(facts).encode()):08x}"


class Journal:
    """The strips of one run on disk; nothing is written before the first.

    Args:
        folder: where to keep them.
        settings: everything that strips depend on, JSON-serialisable.
        resume: continue the journal of a run with the same settings; otherwise it is replaced.

    Raises:
        ArgumentError: if the journal to resume has other settings.
        OutputError: if the folder exists and is not a journal.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        self.folder = folder
        self._settings = json.loads(json.dumps({"journal": _VERSION, **settings}))
        self._files: dict[int, Path] = {}
        _check_folder(folder)
        self._begun = resume and self._is_ours()
        if self._begun:
            named = [(_STRIP.fullmatch(file.name), file) for file in sorted(folder.iterdir())]
            self._files = {
                int(found[1]): file
                for found, file in named
                if found and zlib.crc32(file.read_bytes()) == int(found[2], 16)  # a strip that is whole
            }

    def _is_ours(self) -> bool:
        """Return whether the folder holds a journal with these settings; raise if its settings differ."""
        then = read_settings(self.folder)
        if not then:
            return False
        names = [name for name in self._settings | then if self._settings.get(name) != then.get(name)]
        if names:
            differ = ", ".join(
                f"{name} {_short(then.get(name))}, not {_short(self._settings.get(name))}" for name in names
            )
            raise ArgumentError(
                f"{self.folder} was begun with {differ}; go on with the settings it was begun with, "
                "or start anew without resume"
            )
        return True

    @property
    def done(self) -> set[int]:
        """Numbers of the strips in the journal."""
        return set(self._files)

    def add(self, strip: Strip) -> None:
        """Store a strip; it is on disk when this returns.

        Raises:
            OutputError: if it cannot be written.
        """
        content = _pack(strip)
        try:
            self._begin()
            name = f"strip-{strip.number}-{zlib.crc32(content):08x}.arrow"
            self._files[strip.number] = self._write(name, content)
        except OSError as error:
            if not self._files:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise OutputError(f"{self.folder} cannot be written: {error.strerror}") from error

    def _begin(self) -> None:
        if not self._begun:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir()
            settings = {**self._settings, "checksum": _checksum(self._settings)}
            self._write(_SETTINGS, json.dumps(settings, indent=1).encode())
            self._begun = True

    def _write(self, name: str, content: bytes | memoryview) -> Path:
        """Write a file into the folder atomically and return its path."""
        part = self.folder / f"{name}.part"
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return part.rename(self.folder / name)

    def strips(self) -> Iterator[Strip]:
        """Yield all stored strips from top to bottom of the scene, one at a time in memory.

        Raises:
            OutputError: if one can no longer be read.
        """
        for number, file in sorted(self._files.items()):
            try:
                yield _unpack(number, file.read_bytes())
            except (OSError, pa.ArrowException) as error:
                raise OutputError(f"{file} can no longer be read: {error}; go on with resume=True") from error

    @contextmanager
    def make_workplace(self) -> Iterator[Path]:
        """Provide an empty folder for outputs in progress, on the disk of the output; removed at the end."""
        folder = self.folder / _UNFINISHED
        try:
            self._begin()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written: {error.strerror}") from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def discard(self) -> None:
        """Remove the folder; the settings last, so that an interruption leaves a valid journal of the rest."""
        shutil.rmtree(self.folder / _UNFINISHED, ignore_errors=True)
        for file in sorted(self.folder.iterdir(), key=lambda file: file.name == _SETTINGS):
            file.unlink(missing_ok=True)  # macOS removes a `._` file together with its owner
        shutil.rmtree(self.folder)


def _check_folder(folder: Path) -> None:
    """Raise unless the folder is missing, empty or a journal, since it may be removed.

    Raises:
        OutputError: if something else has this name.
    """
    try:
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise OutputError(f"{folder.name:.60} cannot be made for what is found meanwhile: {error.strerror}") from error
    strange = [name for name in names if not (_OURS.fullmatch(name) or _SYSTEMS.fullmatch(name))]
    if strange or folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        what = f"holds {strange[0]}, so it is no journal of geodetect" if strange else "is no journal of geodetect"
        raise OutputError(
            f"{folder} is wanted for what is found meanwhile, but {what}; move it, or choose another output"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _pack(strip: Strip) -> memoryview:
    """Serialise a strip as an Arrow stream."""
    kinds = [strip.settled, strip.held, strip.parts.boxes]
    boxes = Boxes.concat(kinds, scored=True)
    cut = np.zeros(len(boxes), np.uint8)
    cut[len(boxes) - len(strip.parts) :] = _as_bits(strip.parts.cut)
    columns = {
        "kind": np.repeat(np.array([_SETTLED, _HELD, _PART], np.uint8), [len(kind) for kind in kinds]),
        **dict(zip(("x1", "y1", "x2", "y2"), boxes.xyxy.T.copy(), strict=True)),
        "label": boxes.labels,
        "score": boxes.scores,
        "cut": cut,
    }
    if boxes.angles is not None:
        columns["angle"] = boxes.angles
    told = {"n_run": str(strip.n_run), "ground": shapely.to_wkb(strip.ground)}
    table = pa.table(columns).replace_schema_metadata(told)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _unpack(number: int, content: bytes) -> Strip:
    """Deserialise a strip that `_pack` serialised."""
    table = pa.ipc.open_stream(content).read_all()
    column = {name: table[name].to_numpy() for name in table.column_names}
    xyxy = np.column_stack([column[name] for name in ("x1", "y1", "x2", "y2")])
    boxes, kind = Boxes(xyxy, column["label"], column["score"], column.get("angle")), column["kind"]
    bits = column["cut"][kind == _PART]
    cut = np.unpackbits(bits[:, None], axis=1, count=4, bitorder="little").astype(bool)  # undoes `_as_bits`
    parts = Parts(boxes[kind == _PART], cut)
    n_run, ground = (table.schema.metadata[name] for name in (b"n_run", b"ground"))
    return Strip(number, boxes[kind == _SETTLED], boxes[kind == _HELD], parts, int(n_run), shapely.from_wkb(ground))


def _as_bits(cut: Bool[np.ndarray, "N 4"]) -> UInt8[np.ndarray, "N"]:
    """Pack the cut sides of each box into the bits of one number: 1 left, 2 top, 4 right, 8 bottom."""
    return np.packbits(cut, axis=1, bitorder="little").reshape(-1)
