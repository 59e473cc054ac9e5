"""`geodetect detect`: find objects in a raster and write them as a vector file."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from geodetect.cli import options, tables


@click.command()
@click.argument("raster")
@click.argument("model")
@click.argument("output", metavar="OUTPUT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--min-score",
    type=options.SCORES,
    show_default="the model's best",
    help="Boxes below are dropped, 0 to 1; for each class: pool=0.4,car=0.3.",
)
@click.option(
    "--nms-iou", type=float, default=0.5, help="IoU above which the worse of two boxes of a class is dropped, 0 to 1."
)
@options.chip_size(None, "the model's")
@options.overlap(None, "the model's")
@click.option(
    "--pixel-size-m",
    type=options.METRES,
    default="model",
    help="Read at this ground resolution, in metres a pixel; model: the model's; none: the raster's own.",
)
@options.bands("the model's")
@click.option(
    "--batch-size",
    type=int,
    show_default="chosen for the device",
    help="Windows per batch (a count).",
)
@options.aoi
@options.nodata
@options.device
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bf16"]),
    default="auto",
    help="Number format of the network; auto: the faster.",
)
@click.option(
    "--tta/--no-tta",
    default=False,
    help="Detect in all eight rotations and reflections of each window, and join the boxes; 8 times as slow.",
)
@click.option(
    "--measure/--no-measure",
    default=False,
    help="Add columns area_m2, width_m and height_m (of oriented boxes length_m and width_m), on the ground.",
)
@click.option(
    "--resume/--no-resume",
    default=False,
    help="Continue a stopped run from the .journal beside the first OUTPUT.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Run on the workers of a Dask cluster, such as tcp://10.0.0.1:8786."
)
@options.progress
def detect(raster: str, model: str, output: tuple[Path, ...], *, scheduler: str | None, **choices: Any) -> None:
    """Find the objects of MODEL's classes in RASTER and write them to one or more OUTPUT files.

    RASTER is a file, a URL, a folder of GeoTIFFs or a pattern in quotes ("tiles/*.tif").
    OUTPUT is a .gpkg, .geojson, .shp, .fgb, .parquet, .kml or .csv file of boxes with label and score.
    """
    from geodetect import cluster
    from geodetect.scene import detect_objects

    with nullcontext() if scheduler is None else cluster.connected(scheduler) as client:
        made = detect_objects(raster, model, output, client=client, **choices)
    for path in made:
        click.echo(f"Wrote {path} ({tables.size_of(path)})")
