"""`geodetect view`: write a page that shows detections on a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geodetect.cli import options


@click.command()
@click.argument("raster")
@click.argument("detections")
@click.argument("page", metavar="OUT.html", type=click.Path(path_type=Path))
@click.option("--labels", metavar="FILE", help="True objects to compare with: a vector file in any CRS.")
@options.label_field
@options.point_radius_m
@options.aoi
@options.match_iou
@options.shape
@click.option("--max-side", type=int, default=2048, help="Maximum length of the longer side of the image, in pixels.")
def view(raster: str, detections: str, page: Path, **choices: Any) -> None:
    """Write a web page that shows RASTER with the vector file DETECTIONS.

    The page is a single HTML file that works offline. It can be zoomed, and its boxes filtered by score, class
    and, with --labels, outcome: right, wrong or missed.
    """
    from geodetect.viewer import view as page_of

    click.echo(f"Wrote {page_of(raster, detections, **choices).save(page)}; open it in a browser")
