"""`geodetect export`: write a model for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from geodetect.cli import tables


@click.command()
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    show_default="the default of the format",
    help="For .onnx: YOLO_v9, YOLO_Ultralytics or YOLO_v5_or_v7_default; for .json: stac-mlm.",
)
def export(model: str, output: Path, layout: str | None) -> None:
    """Export MODEL to OUTPUT, for use without geodetect.

    OUTPUT is an .onnx file for GeoDeep (WebODM), Deepness (QGIS), Ultralytics and onnxruntime, a .dlpk package
    for ArcGIS (experimental), a .pt2 program for PyTorch, or a .json STAC item with a .pt2 file beside it.
    """
    from geodetect import export as exporting
    from geodetect.zoo import load_detector

    exporting.check_output(output, layout)
    made = exporting.export(load_detector(model, device="cpu", precision="float32"), output, layout)
    click.echo(f"Wrote {made} ({tables.format_size(made)})")
