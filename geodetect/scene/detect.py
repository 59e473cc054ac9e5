"""`detect_objects`: a raster and a model in, boxes on the map out.

The arguments become a `plan`; strips of the scene are scanned (`scan`): windows are read (`prefetch`), shown to the
detector, and freed of what their edges cut (`edges`); the strips are sewn together (`seam`) and become `features`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd

from geodetect.boxes import Boxes
from geodetect.raster import Reader
from geodetect.scene.asking import Asked, AskedInAllSymmetries
from geodetect.scene.edges import Parts, join
from geodetect.scene.features import features_of
from geodetect.scene.models import DetectsPixels, HoldsDetector, detector_of, lowest_scores, made_ready
from geodetect.scene.plan import Plan, check_place, opened, planned
from geodetect.scene.scan import Strip, on_ground, scanned
from geodetect.scene.seam import Seam
from geodetect.vector.labels import read_area
from geodetect.vector.writers import check_output, write_features


def detect_objects(
    raster: str | Path,
    model: DetectsPixels | HoldsDetector | str | Path,
    output: str | Path | None = None,
    *,
    min_score: float | Mapping[str, float] | None = None,
    nms_iou: float = 0.5,
    chip_size: int | None = None,
    overlap: int | None = None,
    pixel_size_m: float | str | None = "model",
    bands: Sequence[int] | None = None,
    batch_size: int | None = None,
    aoi: Any = None,
    device: str | None = None,
    precision: str = "auto",
    tta: bool = False,
    progress: bool = True,
) -> gpd.GeoDataFrame | Path:
    """The objects that a model finds in a raster: columns `label`, `score` and `geometry`, best score first.

    Objects that a window's edge cuts are taken from the window that sees them whole; objects longer
    than the overlap are put together from their parts.

    Args:
        raster: a raster file or URL.
        model: a learner, a detector, a file that a learner saved, or any object as in `DetectsPixels`.
        output: a file to write, its format named by its suffix; without one the result is returned.
        min_score: score below which boxes are dropped, for all classes or by class (classes not named
            keep the model's own); None: the score that served best in validation, 0.5 when unknown.
        nms_iou: overlap above which the worse of two boxes of one class is dropped.
        chip_size: side of a window in pixels; None: the model's.
        overlap: how much windows share at least, in pixels; None: the model's, or a quarter of a
            `chip_size` that is not the model's.
        pixel_size_m: resample the raster to pixels of this size; "model": the size the model was
            trained at, where the raster's pixels have one; None: as they are.
        bands: the bands to show the model, counted from 1; None: those it was trained on.
        batch_size: windows the model sees at once; None: as many as serve best on its device. Where memory
            does not suffice for them, half as many.
        aoi: where to look, a vector file, a GeoDataFrame, or a shapely geometry in the raster's CRS;
            windows that do not meet it are not read, boxes whose centre lies outside are dropped.
        device: for a model given as a file: where it runs; None: a GPU if there is one.
        precision: for a model given as a file: "float32", "bf16", or "auto" for the faster of them, which a
            short trial at the start finds out.
        tta: show the model each window in all eight symmetries of a square, which takes eight times as long,
            and keep what it finds in any of them (test-time augmentation).
        progress: show a progress bar.

    Returns:
        boxes as polygons in the raster's CRS, rotated where its grid is; in pixels, y down, with a
        warning, when it has no georeference; `attrs` hold the `precision` and `batch_size` of the run. With
        `output` the path of the file instead.

    Raises:
        GeodetectError: before any work, if an argument, the raster, the model or the output is not
            possible; later only for a block of the raster that cannot be read. No file is left.
    """
    if output is not None:
        check_output(output)
    detector = made_ready(detector_of(model, device, precision))
    with opened(raster, detector, bands, pixel_size_m) as reader:
        check_place(reader.grid, output)
        lowest = lowest_scores(min_score, detector)
        plan = planned(
            reader,
            detector,
            lowest,
            nms_iou=nms_iou,
            chip_size=chip_size,
            overlap=overlap,
            batch_size=batch_size,
            area=None if aoi is None else read_area(aoi, reader.grid),
        )
        asked = AskedInAllSymmetries(detector, plan) if tta else Asked(detector, plan)
        strips = scanned(reader, asked, plan, range(plan.n_strips), progress=progress)
        with closing(strips):  # threads and bar end here, also after an error
            found = _sewn(strips, reader, plan)
        features = features_of(found, reader.grid, detector.classes)
    features.attrs |= {"precision": getattr(detector, "precision", None), "batch_size": asked.batch_size}
    return features if output is None else write_features(features, output)


def _sewn(strips: Iterable[Strip], reader: Reader, plan: Plan) -> Boxes:
    """All objects of the scene, in scene pixels.

    Strips are merged from top to bottom. Parts are few, and are joined when all are known; only then do they
    have a centre to be judged by.
    """
    seam, settled, parts = Seam(plan.nms_iou), [], []
    for strip in strips:
        _, row_end = plan.lines(strip.number)
        settled += [strip.settled, seam.feed(strip.held, row_end)]
        parts.append(strip.parts)
    whole = Boxes.concat([*settled, seam.flush()], scored=True)
    joined = join(Parts.concat(parts), whole, plan.nms_iou)
    return Boxes.concat([whole, joined[on_ground(joined, reader, plan)]])
