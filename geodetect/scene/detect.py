"""`detect_objects`: from a raster and a model to boxes on the map.

The arguments become a `plan`. Strips of the scene are scanned, here (`scan`) or on a cluster (`remote`): windows are
read (`prefetch`) and passed to the detector (`runner`), and boxes cut by window edges are set aside (`edges`). The
strips are merged (`seam`) and become `features`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Unpack, overload

import geopandas as gpd
import numpy as np
import shapely

from geodetect import memory
from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError, GeodetectError, OutputError, warn
from geodetect.files import follow_link
from geodetect.locks import hold
from geodetect.raster import RasterReader, Rasters, Reader, list_files
from geodetect.scene.edges import Parts, join
from geodetect.scene.features import check_measurable, features_of
from geodetect.scene.ground import join_ground
from geodetect.scene.journal import Journal, journal_of, read_settings
from geodetect.scene.models import DetectsPixels, HoldsDetector, load_model, resolve_min_scores
from geodetect.scene.options import DetectOptions
from geodetect.scene.plan import Plan, Selection, Sizes, check_place, make_plan, open_raster
from geodetect.scene.progress import WindowProgress
from geodetect.scene.provenance import settings_of, state_of
from geodetect.scene.ranking import Ranking
from geodetect.scene.remote import ClusterScanner
from geodetect.scene.runner import runner_for
from geodetect.scene.scan import LocalScanner, Strip, on_ground, scan_strips
from geodetect.scene.seam import Seam
from geodetect.scene.value_range import check_value_range
from geodetect.vector.areas import read_area
from geodetect.vector.opening import Area, list_paths
from geodetect.vector.outputs import SEARCHED, check_output, check_parts
from geodetect.vector.writers import check_texts, write_features

_FRAME_SIZE = 1 << 16  # features created and passed to the writer at once


@overload
def detect_objects(
    raster: Rasters,
    model: DetectsPixels | HoldsDetector | str | Path,
    output: None = None,
    **options: Unpack[DetectOptions],
) -> gpd.GeoDataFrame: ...
@overload
def detect_objects(  # type: ignore[overload-overlap]  # a str is a sequence of them, and matches this one first
    raster: Rasters,
    model: DetectsPixels | HoldsDetector | str | Path,
    output: str | Path,
    **options: Unpack[DetectOptions],
) -> Path: ...
@overload
def detect_objects(
    raster: Rasters,
    model: DetectsPixels | HoldsDetector | str | Path,
    output: Sequence[str | Path],
    **options: Unpack[DetectOptions],
) -> list[Path]: ...
def detect_objects(
    raster: Rasters,
    model: DetectsPixels | HoldsDetector | str | Path,
    output: str | Path | Sequence[str | Path] | None = None,
    *,
    min_score: float | Mapping[str, float] | None = None,
    nms_iou: float = 0.5,
    chip_size: int | None = None,
    overlap: int | None = None,
    pixel_size_m: float | str | None = "model",
    bands: Sequence[int | str] | None = None,
    batch_size: int | None = None,
    aoi: Area | None = None,
    device: str | None = None,
    precision: str = "auto",
    tta: bool = False,
    measure: bool = False,
    client: Any = None,
    resume: bool = False,
    nodata: float | None = None,
    progress: bool = True,
) -> gpd.GeoDataFrame | Path | list[Path]:
    """Detect objects in a raster; the result has columns `label`, `score` and `geometry`, highest score first.

    A detector with `oriented = True` gives rotated rectangles, with a column `angle_deg`: the direction of the longer
    side, clockwise from the map's north (on a map in degrees from true north), from 0 to below 180.

    Objects are taken from the window that has them furthest inside; objects longer than the overlap are joined from
    their parts.

    Args:
        raster: a path, a URL, a list of them, a folder of GeoTIFFs or a pattern such as "tiles/*.tif"; or a STAC
            item, by path or URL. Several files form one scene, however far apart they are; where they overlap, the
            last one wins.
        model: a learner, a detector, the path of a saved one, or any object that implements `DetectsPixels`.
        output: a file to write, with the format given by its suffix, or several of them; None returns the result.
            With an output, memory is bounded: a folder `.journal` beside the first file holds intermediate results.
        min_score: score below which boxes are dropped, for all classes or by class (classes not named
            keep the model's own); None: the best score in validation, 0.5 if unknown.
        nms_iou: overlap above which the lower-scored of two boxes of one class is dropped.
        chip_size: side of a window in pixels; None: the model's. Heads with group norm compute statistics over the
            whole window: up to twice the training size worked as well, four times did not.
        overlap: minimum overlap of adjacent windows in pixels; None: the model's, or a quarter of `chip_size` if
            that differs from the model's.
        pixel_size_m: resample the raster to this pixel size; "model": the size the model was trained at, if the
            raster is georeferenced; None: no resampling.
        bands: the bands to pass to the model, counted from 1 or by name; None: all, or the bands it was trained on
            unless these are the first ones in order. Required if the raster has more bands than the model takes.
        batch_size: windows per batch; None: chosen for the model's device. Halved if memory runs out.
        aoi: area of interest, a vector file or frame in any CRS, or a geometry or (x1, y1, x2, y2) in the raster's;
            windows that do not intersect it are not read, boxes whose centre is outside are dropped. It may consist
            of several polygons, however far apart.
        device: where the model runs; None: where it is, or for a file a GPU if available.
        precision: "float32", "bf16", "float16", or "auto": the model's own, or else the faster one in a short
            benchmark at the start. "int8" (on a CPU, with the extra `int8`) computes a window 1.6 to 2.2
            times as fast as bf16, but first quantises the network for 16 windows of the scene, which takes 10 to 30 s:
            it is for scenes of many hundred windows.
        tta: test-time augmentation: run each window in all eight symmetries of a square and keep the detections of
            all, which takes eight times as long.
        measure: add the columns `area_m2`, `width_m` and `height_m`, along the raster's rows and columns on the ground;
            for oriented boxes `area_m2`, `length_m` and `width_m` of the object itself.
        client: a `dask.distributed.Client` whose workers run the windows. They need the raster under the same name.
            `batch_size` and `precision` are chosen on a worker. A model given as a file runs on a GPU of the worker if
            it has any, and workers that see the same GPUs take one each; None: run locally.
        resume: continue an interrupted run from the journal beside the output, if there is one; the result equals
            that of an uninterrupted run. Otherwise such a journal is replaced.
        nodata: no-data value, in addition to those that the raster declares.
        progress: show a progress bar.

    Returns:
        Boxes as polygons in the raster's CRS, rotated if its grid is; without a georeference in pixels, y down, with
        a warning. `attrs` hold the settings of the run and the area `searched` (WKT in the raster's CRS). With
        `output` the path of the file instead, or a list of paths if several were given; files hold as much of this
        as their format allows.

    Raises:
        GeodetectError: before any work, if an argument, the raster, the model or the output is invalid, or if
            `resume` finds the journal of a run with other settings; later for an unreadable block of the raster, a
            full disk, or a cluster that does not respond. No partial output is left behind.
    """
    outputs = _outputs(output, raster, aoi)
    if resume and not outputs:
        raise ArgumentError("resume=True goes on with what lies beside an output; name the output, or leave resume out")
    earlier = read_settings(journal_of(outputs[0])) if resume else {}
    chosen = load_model(model, device, precision, earlier=earlier.get("precision"), is_local=client is None)
    for path in outputs or (None,):
        check_texts(chosen.detector.classes, path)
    scanner = LocalScanner(chosen) if client is None else ClusterScanner(chosen, client)
    sizes = Sizes(chip_size, overlap, earlier.get("batch_size") if batch_size is None else batch_size)
    reading = open_raster(raster, scanner.detector, bands, pixel_size_m, nodata=nodata, progress=progress)
    with memory.freeze_collector(), reading as reader:
        check_place(reader, outputs)
        check_measurable(reader.grid, measure=measure)
        area = None if aoi is None else read_area(aoi, reader.grid)
        selection = Selection(resolve_min_scores(min_score, scanner.detector), nms_iou, area)
        plan = scanner.make_plan(reader, selection, sizes, tta=tta)
        check_value_range(reader, scanner.detector, plan)
        scene = _Scene(reader, plan, scanner, measure=measure, progress=progress)
        if not outputs:
            return scene.collect_features()
        with hold(journal_of(outputs[0]).with_suffix("")):
            scene.write(outputs, resume=resume)
        return outputs if isinstance(output, Sequence) and not isinstance(output, str) else outputs[0]


def _outputs(output: Any, raster: Rasters, aoi: Any) -> list[Path]:
    """Return the files to write, checked; an empty list for None.

    Raises:
        GeodetectError: if one cannot be written, two are the same, or one is also an input.
    """
    if output is None:
        return []
    several = list(output) if isinstance(output, Sequence) and not isinstance(output, str) else [output]
    paths = [check_output(path) for path in several]
    if not paths or len({os.path.normcase(os.path.realpath(path)) for path in paths}) < len(paths):
        raise ArgumentError(f"output must be a file or several different ones; got {output!r:.200}")
    check_parts(paths)
    if replaced := [path for path in paths if path.exists()]:
        read = [*list_files(raster)[0], *list_paths(aoi)]
        for path in replaced:
            if any(os.path.exists(file) and path.samefile(file) for file in read):
                raise OutputError(f"{path} is to be read, and would be replaced; choose another output")
    return paths


@dataclass(frozen=True, eq=False)
class _Scene:
    """One scene and how to process it.

    Args:
        reader: its pixels.
        plan: the windows and thresholds.
        scanner: runs the model according to the plan.
        measure: whether to add sizes on the ground.
        progress: whether to show a progress bar.
    """

    reader: RasterReader
    plan: Plan
    scanner: LocalScanner | ClusterScanner
    measure: bool
    progress: bool

    def collect_features(self) -> gpd.GeoDataFrame:
        """Return all objects, highest score first, with the settings of the run in `attrs`."""
        with closing(self._scan(range(self.plan.n_strips))) as coming:
            strips = sorted(coming, key=lambda strip: strip.number)
        found = Ranking(oriented=self.plan.oriented)
        ran = _merge_strips(strips, self.reader, self.plan, found)
        features = features_of(found.all(), self.reader.grid, self.scanner.detector.classes, measure=self.measure)
        features.attrs |= {**self._about(ran), SEARCHED: self._find_searched(ran).wkt}
        return features

    def write(self, outputs: Sequence[Path], *, resume: bool) -> None:
        """Write all objects to files, highest score first; each file appears atomically.

        Finished strips go to the journal. Once all are there, they are merged from it.
        """
        settings = settings_of(self.reader, self.scanner.detector, self.plan)
        journal = Journal(journal_of(outputs[0]), settings, resume=resume)
        todo = [number for number in range(self.plan.n_strips) if number not in journal.done]
        try:
            with closing(self._scan(todo)) as strips:
                for strip in strips:
                    journal.add(strip)
            with journal.make_workplace() as folder:
                found = Ranking(folder, oriented=self.plan.oriented)
                self._write_each(outputs, folder, found, _merge_strips(journal.strips(), self.reader, self.plan, found))
        except GeodetectError as error:
            if not (journal.done and journal.folder.is_dir()):
                raise
            kept = f"{len(journal.done)} of {self.plan.n_strips} strips are kept in {journal.folder.name}"
            raise type(error)(f"{error}; {kept}: go on with resume=True") from error
        journal.discard()

    def _write_each(self, outputs: Sequence[Path], folder: Path, found: Ranking, ran: _Coverage) -> None:
        """Write the same objects to each file; if one fails, the others are still written.

        Raises:
            OutputError: if any failed; the message says which, and which are complete.
        """
        failures: list[OutputError] = []
        written: list[str] = []
        searched = self._find_searched(ran)
        for path in outputs:
            # Incomplete files are kept in the journal, unless that is on another disk.
            here = folder if follow_link(path).parent.stat().st_dev == folder.stat().st_dev else None
            try:
                write_features(self._frames(found), path, workplace=here, about=self._about(ran), searched=searched)
                written.append(path.name)
            except OutputError as error:
                failures.append(error)
        if failures:
            complete = f"; {' and '.join(written)} {'is' if len(written) == 1 else 'are'} complete" if written else ""
            raise OutputError("; ".join(map(str, failures)) + complete) from failures[0]

    def _scan(self, numbers: Sequence[int]) -> Generator[Strip, None, None]:
        """Yield the strips with these numbers as they are finished, locally or by the cluster.

        Warns at the end if a file of the raster was changed in the meantime.
        """
        before = state_of(self.reader)
        n_all, n_todo = (self.plan.n_windows(some) for some in (range(self.plan.n_strips), numbers))
        with WindowProgress(n_all, n_all - n_todo, shown=self.progress) as tally:
            with closing(self.scanner.scan(self.reader, self.plan, numbers, tally.add)) as strips:
                yield from strips  # its threads end here, also after an error
        if state_of(self.reader) != before:
            warn(
                f"{self.reader.name} was changed while it was read, and what was found may be of both; run it again "
                "if its pixels are others"
            )

    def _frames(self, found: Ranking) -> Iterator[gpd.GeoDataFrame]:
        """Yield the objects as features in chunks; the first chunk is empty and defines the columns."""
        for boxes in chain([Boxes.empty(scored=True, oriented=self.plan.oriented)], found.ranked()):
            for start in range(0, max(len(boxes), 1), _FRAME_SIZE):
                some = boxes[start : start + _FRAME_SIZE]
                yield features_of(some, self.reader.grid, self.scanner.detector.classes, measure=self.measure)

    def _about(self, ran: _Coverage) -> dict[str, Any]:
        """Return the settings of the run and how many windows were run."""
        settings = settings_of(self.reader, self.scanner.detector, self.plan)
        settings["batch_size"] = self.scanner.used_batch_size  # smaller than planned if memory ran out
        return {**settings, "n_windows": len(self.plan.windows), "n_windows_run": ran.n_windows}

    def _find_searched(self, ran: _Coverage) -> shapely.Geometry:
        """Return the area that was searched, in map coordinates."""
        area = self.plan.selection.area
        ground = ran.ground if area is None else shapely.intersection(ran.ground, area)
        areal = [part for part in shapely.get_parts(ground) if part.area > 0]  # no points and lines
        return shapely.transform(join_ground(areal), self.reader.grid.in_plane().to_map)


def boxes_within(
    reader: Reader, detector: DetectsPixels, area: shapely.Geometry, *, min_score: float, nms_iou: float
) -> Boxes:
    """Return what `detect_objects` finds in a part of an open raster, highest score first, in its pixels.

    Args:
        reader: the raster, with the bands and pixel size that the detector expects.
        detector: as `optimise` returns it.
        area: area of interest in the reader's pixels; all windows that intersect it are run.
        min_score: score below which boxes are dropped.
        nms_iou: overlap above which the lower-scored of two boxes of one class is dropped.
    """
    lowest = np.full(len(detector.classes), min_score)
    plan = make_plan(reader, detector, Selection(lowest, nms_iou, area))
    found = Ranking(oriented=plan.oriented)
    with closing(scan_strips(reader, runner_for(detector, plan), plan, range(plan.n_strips))) as strips:
        _merge_strips(strips, reader, plan, found)
    return found.all()


class _Coverage(NamedTuple):
    """Number of windows run and the ground they cover, in scene pixels."""

    n_windows: int
    ground: shapely.Geometry


def _merge_strips(strips: Iterable[Strip], reader: Reader, plan: Plan, found: Ranking) -> _Coverage:
    """Merge the strips, which come from top to bottom, into `found`, and return how much was run.

    Parts are few, so they are joined once all are known; only then can they be checked for lying on data.
    """
    seam, parts, n_run, grounds = Seam(plan.selection.nms_iou), [], 0, []
    for strip in strips:
        _, row_end = plan.lines(strip.number)
        found.add(strip.settled)
        found.add(seam.feed(strip.held, row_end))
        parts.append(strip.parts)
        grounds.append(strip.ground)
        n_run += strip.n_run
    found.add(seam.flush())
    whole = join(Parts.concat(parts), found, plan.selection.nms_iou)
    found.add(whole[on_ground(whole, reader, plan)])
    return _Coverage(n_run, join_ground(grounds))
