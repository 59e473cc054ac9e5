"""`geodetect info`: describe a model, a raster or a vector file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from geodetect.addresses import expand_user, redact
from geodetect.cli import options, tables
from geodetect.errors import LabelsError, RasterError

_MODEL = ".safetensors"
_WEIGHTS = (".pt", ".pth")
_EXPORTED = (".onnx", ".dlpk", ".pt2", ".json")


@click.command()
@click.argument("file", required=False)
@options.label_field
@options.layer
@click.option("--published", is_flag=True, help="List published detectors instead of describing a file.")
def info(file: str | None, label_field: str | None, layer: str | None, *, published: bool) -> None:
    """Describe FILE: a saved, exported or published model, a raster, or a vector file.

    Sizes are in pixels and metres, extents in the units of the file's CRS.
    """
    from geodetect.export.onnx_detector import OnnxDetector
    from geodetect.raster.stac import list_item_bands
    from geodetect.zoo import catalog, load_detector
    from geodetect.zoo.names import is_published

    if published or file is None:
        if not published:
            raise click.UsageError("expected a FILE, or --published for a list of published detectors")
        for each in catalog.CATALOG:
            tables.show_facts(each._asdict())
            click.echo()
        return
    file = expand_user(file)
    if file.lower().endswith((_MODEL, *_WEIGHTS)):
        detector, path = load_detector(file, device="cpu"), Path(file)
        facts: dict[str, Any] = {"file": f"{path}, a model ({tables.format_size(path)})", **detector.facts}
    elif is_published(file) and not isinstance(model := load_detector(file, device="cpu"), OnnxDetector):
        facts = {"file": f"{redact(file)}, a detector of another program", **model.metadata.facts}
    elif file.endswith(_EXPORTED) and (exported := _describe_export(Path(file))) is not None:
        facts = exported
    elif (item := list_item_bands(file)) is not None:
        facts = {"file": f"{redact(file)}, a STAC item, {item[0]}", "bands": ", ".join(item[1])}
    else:
        facts = _describe_file(file, label_field, layer)
    if (nms_iou := facts.get("nms_iou")) is not None:  # in the summary of another program's detector
        facts["nms_iou"] = f"{nms_iou}, its authors' choice; detect uses --nms-iou, 0.5 unless given"
    tables.show_facts(facts)


def _describe_export(path: Path) -> dict[str, Any] | None:
    """Return the facts of an exported model; None for a `.json` file of another kind."""
    from geodetect.export.reading import read_facts
    from geodetect.metadata import Architecture

    facts = read_facts(path)
    if facts is None:
        return None
    size, overlap = facts["pixel_size_m"], facts["overlap"]
    return {
        "file": f"{path}, {facts['format']} ({tables.format_size(path)})",
        "classes": ", ".join(facts["classes"]),
        "bands": ", ".join(str(band) for band in facts["bands"]),
        "pixel size": None if size is None else f"{size:g} m",
        "chip size": f"{facts['chip_size']} px" + ("" if overlap is None else f", overlap {overlap} px"),
        "boxes": "oriented" if facts.get("oriented") else None,
        "backbone": facts.get("backbone"),
        "heads": Architecture.from_json(facts).heads if "anchors" in facts else None,
        "best score": facts["min_score"],
        "arguments": facts.get("arguments"),
        "artifact": facts.get("artifact"),
        **facts.get("summary", {}),
    }


def _describe_file(file: str, label_field: str | None, layer: str | None) -> dict[str, Any]:
    """Return the facts of a file that is no model.

    Raises:
        GeodetectError: if it can be read neither as a raster nor as a vector file: the error of the more likely
            attempt, or one that names both.
    """
    try:
        return _describe_raster(file)
    except RasterError as no_raster:
        try:
            return _describe_vector(file, label_field, layer)
        except LabelsError as no_vector:
            if not Path(file.partition("|")[0]).is_file():
                raise no_raster from no_vector
            if "cannot be read" not in str(no_vector):
                raise
            both = f"{no_raster}; nor can it be read as a vector file or a model ({_MODEL})"
            raise RasterError(both) from no_vector


def _describe_raster(file: str) -> dict[str, Any]:
    """Return the facts of a raster; those that need a CRS or a georeference only if there is one."""
    from geodetect.errors import NotGeoreferenced
    from geodetect.raster import RasterReader

    with RasterReader(file) as reader:
        grid = reader.grid
        height, width = grid.shape
        facts = {
            "file": f"{redact(file)}, a raster",
            "size": f"{width} x {height} px",
            "bands": f"{', '.join(reader.band_names)} ({reader.dtype})",
        }
    if grid.transform is None:
        return facts | {"CRS": "none, nor a georeference: pixels"}
    facts |= {"CRS": _describe_crs(grid.crs), "bounds": _format_bounds(grid.bounds)}
    try:
        x, y = grid.pixel_sides_m
    except NotGeoreferenced:
        return facts
    return facts | {"pixel size": f"{x:.4g} x {y:.4g} m"}


def _describe_vector(file: str, label_field: str | None, layer: str | None) -> dict[str, Any]:
    """Return the facts of a vector file."""
    from geodetect.vector.opening import open_features

    features = open_features(file, layer=layer)
    frame = features.frame
    counts = Counter(name or "without a class" for name in features.class_names(label_field))
    kinds = Counter(frame.geom_type.fillna("empty"))
    return {
        "file": f"{redact(file)}, a vector file",
        "features": f"{len(frame)} ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})",
        "CRS": _describe_crs(frame.crs),
        "bounds": _format_bounds(frame.total_bounds) if len(frame) else None,
        "columns": ", ".join(str(name) for name in frame.columns if name != frame.active_geometry_name) or None,
        "classes": ", ".join(f"{name} {n}" for name, n in counts.most_common()) or None,
        "note": features.note or None,
    }


def _describe_crs(crs: Any) -> str:
    """Return code and name of a CRS."""
    if crs is None:
        return "none"
    authority = crs.to_authority()
    return f"{':'.join(authority)}, {crs.name}" if authority else str(crs.name)


def _format_bounds(bounds: Sequence[float]) -> str:
    x1, y1, x2, y2 = bounds
    return f"x {x1:.10g} to {x2:.10g}, y {y1:.10g} to {y2:.10g}"
