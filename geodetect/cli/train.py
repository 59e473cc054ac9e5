"""`geodetect train`: train a detector on chips, or on a raster with labels."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from geodetect.addresses import expand_user
from geodetect.cli import options, tables
from geodetect.errors import OutputError

_SUFFIX = ".safetensors"


@click.command()
@click.argument("source")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--labels", metavar="FILE", help="Vector file with the labels of a raster, in any CRS.")
@options.class_mapping
@options.chip_size(None, "the size of the images, else 512")
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
    show_default="detected",
    help="Format of the folder SOURCE: coco, voc, yolo, yolo_obb, dota, kitti, esri or deepforest.",
)
@click.option("--valid-path", metavar="FOLDER", help="Folder of validation chips, instead of a part of SOURCE.")
@click.option("--val-split-pct", type=float, default=0.2, help="Share of the chips for validation, between 0 and 1.")
@click.option(
    "--split",
    type=click.Choice(["blocks", "random"]),
    default="blocks",
    help="Hold out spatial blocks, or random chips.",
)
@click.option("--batch-size", type=int, show_default="8, fewer for few chips", help="Chips per batch (a count).")
@click.option("--transforms/--no-transforms", default=True, help="Apply random augmentation to training chips.")
@click.option("--num-workers", type=int, show_default="chosen", help="Processes for data loading (a count).")
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
    help="Anchor sizes relative to the base size, or auto to fit all anchors to the data.",
)
@click.option(
    "--ratios",
    type=options.RATIOS,
    default=(0.5, 1, 2),
    show_default="0.5,1,2",
    help="Aspect ratios of anchors: height divided by width.",
)
@click.option(
    "--anchor-size",
    type=float,
    default=4,
    help="Base size of anchors, in strides of their level (4: 32 px at level 3).",
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
    help="Initial weights: imagenet, coco, none, a file (a saved model or torchvision weights) or a published model.",
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
    help="Normalization layers in the heads: batch, group, or none as in the paper.",
)
@click.option(
    "--freeze/--no-freeze",
    default=None,
    show_default="only batch norms, if pretrained",
    help="Freeze the weights of the backbone.",
)
@click.option("--box-weight", type=float, show_default="2, without GIoU 1", help="Weight of the box loss, a factor.")
@click.option("--focal-alpha", type=float, default=0.25, help="Weight of positive anchors in the focal loss, 0 to 1.")
@click.option("--focal-gamma", type=float, default=2.0, help="Focusing parameter of the focal loss, an exponent.")
@click.option("--giou/--no-giou", default=True, help="Use generalised IoU as box loss instead of smooth L1.")
@options.device
@click.option(
    "--epochs",
    type=int,
    show_default="10, more for few chips",
    help="Passes over the training chips (a count).",
)
@click.option("--lr", type=float, show_default="0.0005", help="Peak learning rate, above 0.")
@click.option(
    "--one-cycle/--no-one-cycle", default=True, help="Use the one-cycle schedule, instead of a constant learning rate."
)
@click.option(
    "--early-stopping/--no-early-stopping",
    default=False,
    help="Stop after a third of the epochs, at least 5, without improvement.",
)
@click.option(
    "--checkpoint",
    type=options.CHECKPOINT,
    default=True,
    show_default="yes",
    help="Keep the weights of the best epoch (yes) or the last (no); a folder also stores the state after each epoch.",
)
@click.option(
    "--monitor",
    type=click.Choice(["valid_loss", "AP50"]),
    default="valid_loss",
    help="Metric that determines the best epoch.",
)
@click.option("--resume/--no-resume", default=False, help="Continue training from the folder given by --checkpoint.")
@options.progress
def train(source: str, model: Path, labels: str | None, **choices: Any) -> None:
    """Train a detector on SOURCE and save it to MODEL (.safetensors).

    SOURCE is a folder of chips, or with --labels a raster: a file, a URL, a folder of
    GeoTIFFs or a quoted pattern ("tiles/*.tif"). On Ctrl-C, SIGTERM and errors the best weights so far
    are saved. To share each batch between N processes, run torchrun --nproc-per-node N -m geodetect train.
    """
    model = Path(expand_user(model))
    if model.suffix != _SUFFIX or model.is_dir():
        raise OutputError(f"MODEL must be a {_SUFFIX} file; got {model}")
    if not model.parent.is_dir():
        raise OutputError(f"the folder {model.parent} does not exist; make it first, or choose another")
    import pandas as pd

    from geodetect.chips import prepare_data
    from geodetect.learner import RetinaNet, distributed
    from geodetect.learner.weights import Start
    from geodetect.network.backbones import check_name

    # Preparing data can take long, so names that mean nothing are refused first.
    check_name(choices["backbone"])
    Start.read(choices["weights"])
    with distributed.join(choices["device"]) as choices["device"]:
        data = prepare_data(source, labels, **_select(prepare_data, choices))
        is_first = distributed.rank() == 0
        if is_first:
            if data.report:
                click.echo(data.report)
            tables.show_table(data.describe(), "Objects")
        learner = RetinaNet(data, **_select(RetinaNet, choices))
        with _raise_on_sigterm():
            learner.fit(**_select(RetinaNet.fit, choices), save_as=model)
        if is_first:
            click.echo(f"Wrote {model} ({tables.format_size(model)})")
            scores = learner.average_precision_score()  # reads the data again
            tables.show_table(pd.DataFrame({"AP50": scores}), "Average precision on the validation chips")


@contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, which schedulers and containers send to end a job, end training as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _select(function: Callable[..., Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices that are keywords of a function."""
    return {name: choices[name] for name in inspect.signature(function).parameters if name in choices}
