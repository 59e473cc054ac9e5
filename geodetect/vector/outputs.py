"""Vector files to be written: checks before the work, the name of the layer, and the move to the final name.

GDAL never sees the final name: it writes `part` with a suffix, which is then renamed.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from geodetect.addresses import expand_user, is_url
from geodetect.errors import ArgumentError, OutputError
from geodetect.files import follow_link
from geodetect.vector.literal import escape_folder

SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb", ".kml", ".parquet", ".csv")
SEARCHED, STYLES = "searched", "layer_styles"  # tables of a GeoPackage beside the features
_WRITTEN = (".dbf", ".shx", ".cpg", ".prj")  # beside the .shp
_STALE = (".qix", ".sbn", ".sbx", ".fix", ".qpj", ".shp.xml")  # what others may have left beside an older one
# SQLite would apply these to any file with the name of the database: https://www.sqlite.org/howtocorrupt.html
_SQLITE = ("-wal", "-shm", "-journal")
_UNFIT_LAYER = re.compile(r"[!-/:-@\[-^`{-~]|gpkg|sqlite_", re.IGNORECASE)  # beginnings that GDAL or SQLite refuse
_CONTROL = re.compile(r"[\x00-\x1f]+")


def check_output(path: str | Path) -> Path:
    """Return the path if features can be written there; meant for a check before hours of work.

    Raises:
        ArgumentError: if it is no path.
        OutputError: if the suffix is unknown, or the file cannot be written or replaced.
    """
    path = check_place(path)
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path.name} should end in one of {' '.join(SUFFIXES)}; got {path.suffix or 'no suffix'!r}")
    try:
        with escape_folder(follow_link(path).parent):
            pass
    except FileNotFoundError as error:
        raise OutputError(f"the working folder was removed; change to one that exists to write {path.name}") from error
    except OSError as error:
        raise OutputError(f"GDAL does not write into {path.parent}, which has ! ; or ? in its name") from error
    if path.suffix.lower() == ".gpkg":
        _check_geopackage(follow_link(path))
    if not _is_shapefile(path):
        return path
    if path.is_symlink():
        raise OutputError(f"{path} is a link, and a shapefile consists of several files; name the file it leads to")
    if not (path.suffix.islower() or path.suffix.isupper()):
        raise OutputError(f"GDAL does not find {path.name}; write {path.stem}.shp instead")
    for suffix in (".shp", *_WRITTEN):
        own, other = path.with_suffix(_match_case(suffix, path)), path.with_suffix(_match_case(suffix, path).swapcase())
        if other.exists() and not (own.exists() and own.samefile(other)):
            raise OutputError(f"{other.name} lies beside {path.name}, and GDAL takes one for the other; rename one")
    return path


def check_place(path: str | Path) -> Path:
    """Return the path, `~` expanded, if a file of any format can be written there.

    Raises:
        ArgumentError: if it is no path.
        OutputError: if it is a folder or write-protected, or its folder is missing or cannot be written to.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"a file is written to a path; got {path!r}")
    path = Path(expand_user(path))
    try:
        str(path).encode()
        target = follow_link(path)
        target.lstat()
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise OutputError(f"{str(path)!r} is no name of a file in UTF-8; choose another") from error
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it is a link that leads to itself"
        raise OutputError(f"{str(path)!r:.300} cannot be written: {reason}; choose another name") from error
    if target.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")
    if not target.parent.is_dir():
        if is_url(str(path)):
            raise OutputError(f"{path.name} is to be written to a URL, which is not possible; give a local path")
        raise OutputError(f"there is no folder {target.parent} to write {path.name} into; make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {target.parent} cannot be written to; choose another or change its permissions")
    if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
        raise OutputError(f"{path} is write-protected or no regular file; choose another name")
    return path


def _check_geopackage(path: Path) -> None:
    """Refuse to replace a GeoPackage that another program has open, or that holds more than one layer.

    Opening and closing it removes the files that a program that crashed has left beside it.

    Raises:
        OutputError: if either is so.
    """
    layers: list[str] = []
    if path.is_file():
        try:
            with closing(sqlite3.connect(path)) as database:
                layers = [name for (name,) in database.execute("SELECT table_name FROM gpkg_contents ORDER BY rowid")]
        except sqlite3.Error:  # no GeoPackage
            pass
    beside = [name for name in (f"{path.name}{suffix}" for suffix in _SQLITE) if os.path.exists(path.with_name(name))]
    if beside:
        raise OutputError(
            f"{path.name} is open in another program ({' and '.join(beside)} beside it says so); close it there, or "
            "choose another name"
        )
    own = [name for name in layers if name not in (SEARCHED, STYLES)]
    if len(own) > 1:
        raise OutputError(
            f"{path.name} holds {len(own)} layers ({', '.join(own):.200}), which would be lost; choose another name"
        )


def check_parts(paths: Iterable[Path]) -> None:
    """Refuse to write shapefiles side by side that GDAL takes for one another.

    Raises:
        ArgumentError: if there are two.
    """
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(os.path.realpath(path.with_suffix("")), path) if _is_shapefile(path) else path
        if other is not path:
            raise ArgumentError(f"GDAL takes {path.name} for {other.name} beside it; write one of them, or rename it")


def _is_shapefile(path: Path) -> bool:
    return path.suffix.lower() == ".shp"


def _match_case(suffix: str, path: Path) -> str:
    """Return the suffix in capitals if the path's own is: GDAL looks for both."""
    return suffix.upper() if path.suffix.isupper() else suffix


def name_layer(path: Path) -> str:
    """Return the name of the layer in a file: as the file, with `_` before names that a GeoPackage does not take."""
    name = _CONTROL.sub(" ", path.stem)
    reserved = name.casefold() in (SEARCHED, STYLES)
    return f"_{name}" if path.suffix.lower() == ".gpkg" and (reserved or _UNFIT_LAYER.match(name)) else name


def publish(part: Path, path: Path) -> None:
    """Move `part` to `path`, and the files of its name beside it, in place of older files.

    The main file is moved last, and an older one of a shapefile removed first: where it is, all of it is.

    Raises:
        OSError: if one cannot be moved.
        OutputError: if another program has opened the older one meanwhile.
    """
    suffixes = [file.name.removeprefix(part.stem) for file in part.parent.iterdir()]
    if part.suffix == ".gpkg":
        _check_geopackage(path)
    if part.suffix == ".shp":
        path.unlink(missing_ok=True)
        for suffix in {*_WRITTEN, *_STALE} - set(suffixes):
            stale = path.with_suffix(_match_case(suffix, path))
            if os.path.lexists(stale):
                stale.unlink()
    for suffix in sorted(set(suffixes) - {part.suffix}):
        os.replace(part.with_suffix(suffix), path.with_suffix(_match_case(suffix, path)))
    os.replace(part, path)
