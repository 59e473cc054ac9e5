"""`geodetect evaluate`: compare detections with labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from geodetect.cli import options, tables


@click.command()
@click.argument("detections")
@click.argument("labels")
@options.label_field
@options.layer
@options.point_radius_m
@options.aoi
@options.match_iou
@click.option("--by-class/--no-by-class", default=True, help="Match only objects of the same class.")
@options.shape
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Also write a .gpkg with the outcome of each feature, an .html report, or a .csv of the table.",
)
def evaluate(detections: str, labels: str, output: Path | None, **choices: Any) -> None:
    """Compare DETECTIONS with the true objects in LABELS.

    Both are vector files in any CRS. Prints precision, recall, F1 and average precision (0 to 1), and
    the numbers of true positives (tp), false positives (fp) and false negatives (fn).
    """
    from geodetect.accuracy import compute_accuracy

    accuracy = compute_accuracy(detections, labels, **choices)
    tables.show_table(accuracy.table, f"Accuracy at IoU {choices['match_iou']:g} (shape {accuracy.shape})")
    if not choices["by_class"]:
        shown = accuracy.confusion.rename_axis(None)
        tables.show_table(shown, "True classes (rows) and detected classes (columns)")
    if not math.isnan(accuracy.best_score):
        click.echo(f"Best F1 at a minimum score of {accuracy.best_score:.3f}")
    else:
        click.echo("No detection is right")
    if output is not None:
        click.echo(f"Wrote {accuracy.save(output)}")
