"""`geodetect train`: train a detector on chips, or on a raster with labels."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geodetect.addresses import expand_user
from geodetect.cli import options, tables
from geodetect.errors import OutputError

if TYPE_CHECKING:
    from geodetect.learner import RetinaNet

_SUFFIX = ".safetensors"


@click.command()
@click.argument("source")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--labels", metavar="FILE", help="Vector file with the labels of a raster, in any CRS.")
@options.class_mapping
@options.chip_size(None, "the pictures' size, else 512")
@options.overlap(None, "0")
@options.pixel_size_m
@options.bands("all")
@options.label_field
@options.layer
@options.point_radius_m
@options.aoi
@options.min_visible
@options.negatives(1.0)
@click.option(
    "--dataset-type",
    metavar="FORMAT",
    show_default="recognised",
    help="Format of the folder SOURCE: coco, voc, yolo, yolo_obb, dota, kitti, esri or deepforest.",
)
@click.option("--valid-path", metavar="FOLDER", help="Folder of validation chips, instead of a share of SOURCE.")
@click.option("--val-split-pct", type=float, default=0.2, help="Share of the chips for validation, between 0 and 1.")
@click.option(
    "--split",
    type=click.Choice(["blocks", "random"]),
    default="blocks",
    help="Hold out blocks of ground, or single chips.",
)
@click.option("--batch-size", type=int, show_default="8, fewer for few chips", help="Chips in a batch (a count).")
@click.option("--transforms/--no-transforms", default=True, help="Augment training chips at random.")
@click.option("--num-workers", type=int, show_default="chosen", help="Processes that read chips (a count).")
@click.option("--sampler", type=click.Choice(["balanced"]), help="Show chips with rare classes more often.")
@options.nodata
@options.boxes
@options.seed
@click.option("--backbone", default="resnet50", help="Backbone of the network.")
@click.option(
    "--scales",
    type=options.SCALES,
    default=(1, 2 ** (1 / 3), 2 ** (2 / 3)),
    show_default="1,1.26,1.59",
    help="Sides of anchors over the base side, or auto to fit all anchors to the data.",
)
@click.option(
    "--ratios",
    type=options.RATIOS,
    default=(0.5, 1, 2),
    show_default="0.5,1,2",
    help="Heights of anchors over their widths.",
)
@click.option(
    "--anchor-size", type=float, default=4, help="Base side of anchors, in strides of their level (4: 32 px)."
)
@click.option(
    "--levels",
    type=options.LEVELS,
    default=(3, 7),
    show_default="3,7",
    help="First and last level of the pyramid; 2,7 for objects under 16 px.",
)
@click.option(
    "--weights",
    type=options.PATH_OR_NONE,
    default="imagenet",
    help="Start from imagenet, coco, none, or a file: a saved model or torchvision's weights.",
)
@click.option(
    "--size",
    type=click.Choice(["small"]),
    show_default="that of the weights, else the paper's",
    help="Width of pyramid and heads; small is several times faster on a CPU.",
)
@click.option(
    "--head-norm",
    type=options.NORM,
    default=None,
    show_default="that of the weights, else batch",
    help="Norm in the heads: batch, group, or none as in the paper.",
)
@click.option("--freeze/--no-freeze", default=None, show_default="no-freeze", help="Do not train the backbone.")
@click.option("--box-weight", type=float, default=1.0, help="Weight of the box loss, a factor.")
@click.option("--focal-alpha", type=float, default=0.25, help="Weight of objects in the focal loss, 0 to 1.")
@click.option("--focal-gamma", type=float, default=2.0, help="Discount of easy anchors in the focal loss, an exponent.")
@click.option("--giou/--no-giou", default=False, help="Generalised IoU as box loss; the paper has smooth L1.")
@options.device
@click.option(
    "--epochs",
    type=int,
    show_default="10, more for few chips",
    help="Passes over the training chips (a count).",
)
@click.option("--lr", type=float, show_default="0.0005", help="Peak learning rate, above 0.")
@click.option("--one-cycle/--no-one-cycle", default=True, help="Raise and lower the learning rate once.")
@click.option("--early-stopping/--no-early-stopping", default=False, help="Stop after 5 epochs without improvement.")
@click.option(
    "--checkpoint",
    type=options.CHECKPOINT,
    default=True,
    show_default="yes",
    help="Keep the best epoch (yes) or the last (no); a folder also keeps the state after each epoch.",
)
@click.option(
    "--monitor",
    type=click.Choice(["valid_loss", "AP50"]),
    default="valid_loss",
    help="Criterion of the best epoch.",
)
@click.option("--resume/--no-resume", default=False, help="Continue the training in the folder --checkpoint.")
@options.progress
def train(source: str, model: Path, labels: str | None, **choices: Any) -> None:
    """Train a detector on SOURCE and save it as the file MODEL (.safetensors).

    SOURCE is a folder of chips, or, with --labels, a raster: a file, a URL, a folder of
    GeoTIFFs or a pattern in quotes ("tiles/*.tif"). Under torchrun --nproc-per-node N -m geodetect train
    N processes share every batch. Ctrl-C, SIGTERM and errors save the best weights so far.
    """
    model = Path(expand_user(model))
    _check_output(model)
    from geodetect.chips import prepare_data
    from geodetect.learner import RetinaNet, distributed

    with distributed.join(choices["device"]) as choices["device"]:
        data = prepare_data(source, labels, **_select(prepare_data, choices))
        is_first = distributed.rank() == 0
        if is_first:
            if data.report:
                click.echo(data.report)
            tables.show_table(data.describe(), "Objects")
        learner = RetinaNet(data, **_select(RetinaNet, choices))
        with _terminable():
            learner.fit(**_select(RetinaNet.fit, choices), save_as=model)
        if is_first:
            _report(learner, model)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which schedulers and containers send to end a job, end training as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_output(model: Path) -> None:
    """Raise before training if the model could not be saved under this name."""
    if model.suffix != _SUFFIX or model.is_dir():
        raise OutputError(f"MODEL must be a {_SUFFIX} file; got {model}")
    if not model.parent.is_dir():
        raise OutputError(f"the folder {model.parent} does not exist; make it first, or choose another")


def _select(function: Callable[..., Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices that are keywords of a function."""
    return {name: choices[name] for name in inspect.signature(function).parameters if name in choices}


def _report(learner: RetinaNet, model: Path) -> None:
    """Print where the model was written, and then its AP50, which reads the data again."""
    import pandas as pd

    click.echo(f"Wrote {model} ({tables.size_of(model)})")
    scores = learner.average_precision_score()
    tables.show_table(pd.DataFrame({"AP50": scores}), "Average precision on the validation chips")
