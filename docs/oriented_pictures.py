"""Make the picture of upright and oriented boxes: `python -m docs.oriented_pictures`, some two minutes.

Two models are trained alike on the drawn suburb, one with each kind of boxes, and detect the cars in a parking lot of
the test scene. They need the extra `offline`.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

import geodetect as gd
from geodetect.raster import RasterReader

ROOT = Path(__file__).resolve().parents[1]
SUBURB = ROOT / "sample_data"
SCENE, LABELS = SUBURB / "suburb_test.tif", SUBURB / "suburb_test.geojson"
PICTURE = ROOT / "docs/pages/pictures/oriented.jpg"
_EPOCHS = 15  # of 20 batches of 4 chips
_LOT = (440, 210, 720, 450)  # x1, y1, x2, y2 in pixels of the scene


def train(kind: str) -> gd.Detector:
    """Train a small model on boxes of one kind."""
    data = gd.prepare_data(
        SUBURB / "suburb_train.tif",
        SUBURB / "suburb_train.geojson",
        chip_size=256,
        pixel_size_m=0.2,
        batch_size=4,
        boxes=kind,
    )
    model = gd.RetinaNet(data, backbone="efficientnet_lite0", size="small", scales="auto")
    model.fit(_EPOCHS, progress=False)
    return model.detector


def draw(detector: gd.Detector, kind: str) -> Image.Image:
    """Draw the outcomes in the parking lot, matched by the IoU of polygons."""
    with RasterReader(SCENE) as reader:
        corners = reader.grid.to_map(np.array(_LOT, float).reshape(2, 2))
    lot = (*corners.min(axis=0), *corners.max(axis=0))
    found = gd.detect_objects(SCENE, detector, aoi=lot, min_score=0.35, nms_iou=0.1, progress=False)
    accuracy = gd.compute_accuracy(found, LABELS, aoi=lot, shape="polygon")
    cars = accuracy.table.loc["car"]
    sys.stdout.write(f"{kind}: {cars['tp']:.0f} cars right, {cars['fp']:.0f} wrong, {cars['fn']:.0f} missed\n")
    png = BytesIO()
    gd.show(SCENE, accuracy.features, aoi=lot, title=f"{kind} boxes").savefig(png, dpi=110)
    return Image.open(png).convert("RGB")


def join(panels: list[Image.Image]) -> Image.Image:
    """Put pictures beside each other."""
    joined = Image.new("RGB", (sum(each.width for each in panels), max(each.height for each in panels)), "white")
    for i, panel in enumerate(panels):
        joined.paste(panel, (sum(each.width for each in panels[:i]), 0))
    return joined


def main() -> None:
    """Train both and write the picture."""
    join([draw(train(kind), kind) for kind in ("upright", "oriented")]).save(PICTURE, quality=88)


if __name__ == "__main__":
    main()
