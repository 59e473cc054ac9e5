"""`geodetect export`: a model for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from geodetect.cli import tables


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def export(model: Path, output: Path) -> None:
    """Write MODEL as OUTPUT, for use without geodetect.

    OUTPUT is a .pt2 file: a PyTorch program from standardised pixels, float32 (B, bands, side, side), to
    logits and deltas.
    """
    from geodetect import export as exporting
    from geodetect.detector import load_detector

    exporting.check_output(output)
    made = exporting.export(load_detector(model, device="cpu", precision="float32"), output)
    click.echo(f"Wrote {made} ({tables.size_of(made)})")
