"""`geodetect demo`: all steps from labels to map, on a drawn suburb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geodetect.addresses import expand_user
from geodetect.cli import options, tables
from geodetect.errors import OutputError, RasterError

if TYPE_CHECKING:
    from geodetect.accuracy import Accuracy
    from geodetect.learner import RetinaNet

EPOCHS = 55  # about four minutes on two cores
_CHIP_SIZE = 256  # px; at 0.3 m a house and its garden
_MAPS = ("found.gpkg", "found.geojson", "found.shp")
_PICTURE, _PAGE = "found.png", "found.html"
_NEXT = """
Next, with scenes of your own:
  geodetect train TRAIN.tif model.safetensors --labels LABELS.gpkg
  geodetect detect OTHER.tif model.safetensors found.gpkg
  geodetect view OTHER.tif found.gpkg found.html"""


@click.command()
@click.argument("out_dir", type=click.Path(path_type=Path), default="geodetect-demo", required=False)
@click.option("--epochs", type=int, default=EPOCHS, help="Passes over the training chips (a count).")
@options.seed
@options.device
@options.progress
def demo(out_dir: Path, *, epochs: int, seed: int, device: str | None, progress: bool) -> None:
    """Train on a synthetic scene, detect pools and cars in another, and write the results to OUT_DIR.

    Nothing is downloaded: the scenes come with geodetect, and training starts from random weights.
    """
    package, out_dir = Path(__file__).resolve().parents[1], Path(expand_user(out_dir))
    folders = [package / "sample_data", package.parent / "sample_data"]  # in an installation; in a checkout
    scenes = next((folder for folder in folders if (folder / "suburb_train.tif").is_file()), None)
    if scenes is None:
        raise RasterError("the demo needs the folder sample_data that comes with geodetect; install geodetect again")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {out_dir} cannot be made: {error.strerror}; choose another") from error
    click.echo(
        f"The demo trains on a synthetic scene for {epochs} epochs of about 5 s each on two idle cores, "
        f"detects in another scene, and writes to {out_dir}"
    )
    model = _train(scenes, epochs=epochs, seed=seed, device=device, progress=progress)
    click.echo(f"Saved {model.save(out_dir / 'suburb.safetensors')}")
    score = _map(model, scenes, out_dir, progress=progress)
    tables.show_table(score.table, "suburb_test.tif, not used for training (ap: average precision at IoU 0.5)")
    for name in score.table.index[:-1]:
        click.echo(f"AP50 {name}: {score.table.loc[name, 'ap']:.3f}")
    click.echo(f"Wrote {', '.join((*_MAPS, _PICTURE))} to {out_dir}; open found.gpkg in QGIS or ArcGIS")
    click.echo(_NEXT)


def _train(scenes: Path, *, epochs: int, seed: int, device: str | None, progress: bool) -> RetinaNet:
    """Return a detector of pools and cars, trained from random weights."""
    from geodetect.chips import prepare_data
    from geodetect.learner import RetinaNet

    train, labels = scenes / "suburb_train.tif", scenes / "suburb_train.geojson"
    data = prepare_data(train, labels, chip_size=_CHIP_SIZE, val_split_pct=0.1, batch_size=4, seed=seed)
    tables.show_table(data.describe(), "suburb_train.tif")
    # Cars are 15 px long: anchors are fitted to the objects, since the paper's begin at 32 px.
    model = RetinaNet(data, backbone="resnet18", weights=None, scales="auto", seed=seed, device=device)
    model.fit(epochs, lr=1e-3, monitor="AP50", progress=progress)
    return model


def _map(model: RetinaNet, scenes: Path, out_dir: Path, *, progress: bool) -> Accuracy:
    """Detect in the other scene, write maps, picture and page, and return the accuracy against its labels."""
    from geodetect.accuracy import compute_accuracy
    from geodetect.drawing import show
    from geodetect.scene import detect_objects
    from geodetect.vector.writers import write_features
    from geodetect.viewer import view

    test, labels = scenes / "suburb_test.tif", scenes / "suburb_test.geojson"
    candidates = detect_objects(test, model, min_score=0.05, progress=progress)
    limits = candidates["label"].map(model.detector.min_score)
    found = candidates[candidates["score"] >= limits]
    for name in _MAPS:
        write_features(found, out_dir / name)
    show(test, found, classes=model.detector.classes).savefig(out_dir / _PICTURE)
    page = view(test, candidates, labels).save(out_dir / _PAGE)
    click.echo(f"Wrote {page}; open it in a browser and move the slider")
    at_point = compute_accuracy(found, labels)
    at_point.table["ap"] = compute_accuracy(candidates, labels).table["ap"]
    return at_point
