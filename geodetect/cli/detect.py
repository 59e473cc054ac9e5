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
    help="Drop boxes with lower scores, 0 to 1; per class: pool=0.4,car=0.3.",
)
@click.option(
    "--nms-iou",
    type=float,
    default=0.5,
    help="Of two boxes of a class with a higher IoU, drop the one with the lower score, 0 to 1.",
)
@options.chip_size(None, "the model's")
@options.overlap(None, "the model's")
@click.option(
    "--pixel-size-m",
    type=options.METRES,
    default="model",
    help="Read at this ground resolution, in metres per pixel; model: the model's; none: the raster's own.",
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
    type=click.Choice(["auto", "float32", "bf16", "float16", "int8"]),
    default="auto",
    help="Data type of the network's computations; auto: the faster of the floats; int8: for large scenes on a CPU.",
)
@click.option(
    "--tta/--no-tta",
    default=False,
    help="Detect in all eight rotations and reflections of each window, and merge the boxes; 8 times slower.",
)
@click.option(
    "--measure/--no-measure",
    default=False,
    help="Add columns area_m2, width_m and height_m (of oriented boxes length_m and width_m), on the ground.",
)
@click.option(
    "--resume/--no-resume",
    default=False,
    help="Continue an interrupted run from the .journal folder beside the first OUTPUT.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Run on the workers of a Dask cluster, such as tcp://10.0.0.1:8786."
)
@options.progress
def detect(raster: str, model: str, output: tuple[Path, ...], *, scheduler: str | None, **choices: Any) -> None:
    """Detect objects in RASTER with MODEL and write them to one or more OUTPUT files.

    RASTER is a file, a URL, a folder of GeoTIFFs or a quoted pattern ("tiles/*.tif").
    OUTPUT is a .gpkg, .geojson, .shp, .fgb, .parquet, .kml or .csv file of boxes with label and score.
    """
    from geodetect import cluster
    from geodetect.scene import detect_objects

    with nullcontext() if scheduler is None else cluster.connect(scheduler) as client:
        made = detect_objects(raster, model, output, client=client, **choices)
    for path in made:
        click.echo(f"Wrote {path} ({tables.format_size(path)})")
