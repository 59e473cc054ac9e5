"""`geodetect info`: what a file is and holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geodetect.addresses import expand_user, redact
from geodetect.cli import options, tables
from geodetect.errors import LabelsError, RasterError

if TYPE_CHECKING:
    from geodetect.grid import Grid

_MODEL = ".safetensors"
_EXPORTED = (".onnx", ".dlpk", ".pt2", ".json")


@click.command()
@click.argument("file")
@options.label_field
@options.layer
def info(file: str, label_field: str | None, layer: str | None) -> None:
    """Tell what FILE is: a model, an exported one, a raster or a vector file.

    Sizes are in pixels and metres, extents in the units of the file's CRS.
    """
    tables.show_facts(_facts(expand_user(file), label_field, layer))


def _facts(file: str, label_field: str | None, layer: str | None) -> dict[str, Any]:
    if file.endswith(_MODEL):
        return _model(Path(file))
    if file.endswith(_EXPORTED) and (exported := _exported(Path(file))) is not None:
        return exported
    return _item(file) or _raster_or_vector(file, label_field, layer)


def _item(file: str) -> dict[str, Any] | None:
    """What there is to say of an item of a STAC catalog; None of anything else."""
    from geodetect.raster.stac import bands_of_item

    found = bands_of_item(file)
    return None if found is None else {"file": f"{redact(file)}, a STAC item, {found[0]}", "bands": ", ".join(found[1])}


def _exported(path: Path) -> dict[str, Any] | None:
    """What a model for other programs says of itself; None for a `.json` file that holds features."""
    from geodetect.export import facts_in

    told = facts_in(path)
    if told is None:
        return None
    size, overlap = told["pixel_size_m"], told["overlap"]
    return {
        "file": f"{path}, {told['format']} ({tables.size_of(path)})",
        "classes": ", ".join(told["classes"]),
        "bands": ", ".join(str(band) for band in told["bands"]),
        "pixel size": None if size is None else f"{size:g} m",
        "chip size": f"{told['chip_size']} px" + ("" if overlap is None else f", overlap {overlap} px"),
        "backbone": told.get("backbone"),
        "best score": told["min_score"],
        "arguments": told.get("arguments"),
        "artifact": told.get("artifact"),
    }


def _model(path: Path) -> dict[str, Any]:
    from geodetect.detector import read_detector

    return {"file": f"{path}, a model ({tables.size_of(path)})", **read_detector(path, device="cpu").facts}


def _raster_or_vector(file: str, label_field: str | None, layer: str | None) -> dict[str, Any]:
    """What there is to say of a file that is no model.

    Raises:
        GeodetectError: if it can be read neither as a raster nor as a vector file.
    """
    try:
        return _raster(file)
    except RasterError as no_raster:
        try:
            return _vector(file, label_field, layer)
        except LabelsError as no_vector:
            raise _neither(file, no_raster, no_vector) from no_vector


def _neither(file: str, no_raster: RasterError, no_vector: LabelsError) -> RasterError | LabelsError:
    """The error that says most: of a file that is not there, of a column that is not, or of both attempts."""
    if not Path(file.partition("|")[0]).is_file():
        return no_raster
    if "cannot be read" not in str(no_vector):
        return no_vector
    return RasterError(f"{no_raster}; nor can it be read as a vector file or a model ({_MODEL})")


def _raster(file: str) -> dict[str, Any]:
    from geodetect.raster import RasterReader

    with RasterReader(file) as reader:
        height, width = reader.grid.shape
        return {
            "file": f"{redact(file)}, a raster",
            "size": f"{width} x {height} px",
            "bands": f"{', '.join(reader.band_names)} ({reader.dtype})",
            **_place(reader.grid),
        }


def _place(grid: Grid) -> dict[str, str]:
    """Where a raster lies, as far as it says."""
    from geodetect.errors import NotGeoreferenced

    if grid.transform is None:
        return {"CRS": "none, nor a georeference: pixels"}
    facts = {"CRS": _crs(grid.crs), "bounds": _listed_bounds(grid.bounds)}
    try:
        x, y = grid.pixel_sides_m
    except NotGeoreferenced:
        return facts
    return {**facts, "pixel size": f"{x:.4g} x {y:.4g} m"}


def _vector(file: str, label_field: str | None, layer: str | None) -> dict[str, Any]:
    from geodetect.vector.opening import open_features

    features = open_features(file, layer=layer)
    frame = features.frame
    counts = Counter(name or "without a class" for name in features.class_names(label_field))
    kinds = Counter(frame.geom_type.fillna("empty"))
    return {
        "file": f"{redact(file)}, a vector file",
        "features": f"{len(frame)} ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})",
        "CRS": _crs(frame.crs),
        "bounds": _listed_bounds(frame.total_bounds) if len(frame) else None,
        "columns": ", ".join(str(name) for name in frame.columns if name != frame.active_geometry_name) or None,
        "classes": ", ".join(f"{name} {n}" for name, n in counts.most_common()) or None,
        "note": features.note or None,
    }


def _crs(crs: Any) -> str:
    """Code and name of a CRS."""
    if crs is None:
        return "none"
    authority = crs.to_authority()
    return f"{':'.join(authority)}, {crs.name}" if authority else str(crs.name)


def _listed_bounds(bounds: Sequence[float]) -> str:
    x1, y1, x2, y2 = bounds
    return f"x {x1:.10g} to {x2:.10g}, y {y1:.10g} to {y2:.10g}"
