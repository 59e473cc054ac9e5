"""`geodetect chips`: cut a raster and labels into chips on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from geodetect.cli import options


@click.command()
@click.argument("raster")
@click.argument("labels")
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--metadata-format",
    default="coco",
    metavar="FORMAT",
    help="coco, voc, yolo, kitti, esri, deepforest; dota or yolo_obb for oriented boxes.",
)
@options.chip_size(512)
@options.overlap(0)
@click.option("--chip-format", default="tif", metavar="FORMAT", help="tif, png or jpg.")
@options.pixel_size_m
@options.bands("all")
@options.label_field
@options.layer
@options.point_radius_m
@options.aoi
@options.min_visible
@options.negatives(0.0)
@options.nodata
@options.seed
@click.option("--overwrite/--no-overwrite", default=False, help="Empty OUT_DIR first.")
@options.progress
def chips(raster: str, labels: str, out_dir: Path, **choices: Any) -> None:
    """Write chips of RASTER, with the boxes of LABELS, to the folder OUT_DIR.

    RASTER is a file, a URL, a folder of GeoTIFFs or a quoted pattern ("tiles/*.tif").
    LABELS is a vector file in any CRS. An interrupted run is resumed.
    """
    from geodetect.chips import export_training_data
    from geodetect.chips.formats import read_folder

    made = export_training_data(raster, labels, out_dir, **choices)
    images = read_folder(made, choices["metadata_format"]).images
    names = Counter(str(name) for image in images for name in image.names)
    counts = ", ".join(f"{name} {n:,}" for name, n in names.most_common())
    click.echo(f"Wrote {made}: {len(images):,} chips with {names.total():,} boxes ({counts})")
