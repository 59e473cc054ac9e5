"""`detect_objects`: a raster and a model in, boxes on the map out.

The arguments become a `plan`; strips of the scene are scanned (`scan`): windows are read (`prefetch`), shown to the
detector, and freed of what their edges cut (`edges`); the strips are sewn together (`seam`) and become `features`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import shapely

from geodetect.addresses import expanded
from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError, GeodetectError, OutputError, warn
from geodetect.files import through_links
from geodetect.locks import held
from geodetect.raster import RasterReader, Rasters, Reader, files_of
from geodetect.scene.edges import Parts, join
from geodetect.scene.features import check_measurable, features_of
from geodetect.scene.ground import joined
from geodetect.scene.journal import Journal, journal_of, recorded
from geodetect.scene.models import DetectsPixels, HoldsDetector, detector_of, lowest_scores, made_ready
from geodetect.scene.numbers import check_numbers
from geodetect.scene.plan import Plan, check_place, opened, planned
from geodetect.scene.progress import WindowProgress
from geodetect.scene.provenance import settings_of, state_of
from geodetect.scene.ranking import Ranking
from geodetect.scene.remote import Work, scanned_by
from geodetect.scene.runner import Runner, runner_for
from geodetect.scene.scan import Strip, on_ground, scanned
from geodetect.scene.seam import Seam
from geodetect.vector.labels import read_area
from geodetect.vector.opening import Area, vector_paths
from geodetect.vector.outputs import SEARCHED, check_output, check_parts
from geodetect.vector.writers import check_texts, write_features

_FRAME_SIZE = 1 << 16  # features that are made, and handed to the writer, at once


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
    """The objects that a model finds in a raster: columns `label`, `score` and `geometry`, best score first.

    Objects that a window's edge cuts are taken from the window that sees them whole; objects longer
    than the overlap are put together from their parts.

    Args:
        raster: a path, a URL, a list of them, a folder of GeoTIFFs or a pattern such as "tiles/*.tif"; or a STAC
            item, by path or URL. Several files are one scene, however far apart they lie; where they overlap, the
            later one counts.
        model: a learner, a detector, a file that a learner saved, or any object as in `DetectsPixels`.
        output: a file to write, its format named by its suffix, or several of them; without one the result is
            returned. What is found goes to a folder `.journal` beside the first meanwhile, and memory is bounded.
        min_score: score below which boxes are dropped, for all classes or by class (classes not named
            keep the model's own); None: the score that served best in validation, 0.5 when unknown.
        nms_iou: overlap above which the worse of two boxes of one class is dropped.
        chip_size: side of a window in pixels; None: the model's. Heads with group norm see a window as a whole: up to
            twice the size that they were trained on served as well, four times did not.
        overlap: how much windows share at least, in pixels; None: the model's, or a quarter of a
            `chip_size` that is not the model's.
        pixel_size_m: resample the raster to pixels of this size; "model": the size the model was
            trained at, where the raster's pixels have one; None: as they are.
        bands: the bands to show the model, counted from 1 or by name; None: all, or the choice that it was trained on
            unless that is the first ones in their order. A raster with more bands than the model takes wants a choice.
        batch_size: windows the model sees at once; None: as many as serve best on its device. Where memory
            does not suffice for them, half as many.
        aoi: where to look, a vector file or frame in any CRS, or a geometry or (x1, y1, x2, y2) in the raster's;
            windows that do not meet it are not read, boxes whose centre lies outside are dropped. It may be of
            several polygons, however far apart.
        device: where the model runs; None: where it is, or for a file a GPU if there is one.
        precision: "float32", "bf16", or "auto": the model's own, or else the faster of them, which a short trial at
            the start finds out.
        tta: show the model each window in all eight symmetries of a square, which takes eight times as long,
            and keep what it finds in any of them (test-time augmentation).
        measure: add the columns `area_m2`, `width_m` and `height_m`, along the raster's rows and columns on the ground.
        client: a `dask.distributed.Client`: the windows are run by its workers, which find the raster under the
            same name and, for a model given as a file and without `device`, choose their own; None: all is done here.
        resume: go on with what a run that was stopped left beside the output, if anything; the result is
            that of an undisturbed run. Otherwise such remains are replaced.
        nodata: value that stands for no data, besides those that the raster declares itself, which stay so.
        progress: show a progress bar.

    Returns:
        boxes as polygons in the raster's CRS, rotated where its grid is; in pixels, y down, with a
        warning, when it has no georeference; `attrs` hold the settings of the run and the ground that was `searched`
        (WKT in the raster's CRS). With `output` the path of the file instead, or a list of paths where several were
        asked for; files hold the same where their format can.

    Raises:
        GeodetectError: before any work, if an argument, the raster, the model or the output is not possible, or if
            `resume` meets the remains of a run with other settings; later for a block of the raster that cannot be
            read, a full disk, or a cluster that does not answer. No file is left under the output's name then.
    """
    if isinstance(model, str | Path):
        model = expanded(model)
    outputs = _outputs(output, raster, aoi)
    if resume and not outputs:
        raise ArgumentError("resume=True goes on with what lies beside an output; name the output, or leave resume out")
    earlier = recorded(journal_of(outputs[0])) if resume else {}
    named = detector_of(model, device, precision)
    for path in outputs or (None,):
        check_texts(named.classes, path)
    loaded = isinstance(model, str | Path)  # as precision and device say
    precision = "auto" if loaded else precision
    by_trial = precision == getattr(named, "precision", None) == "auto"  # and might come out otherwise this time
    chosen = None if precision == "auto" else precision
    detector = made_ready(named, earlier.get("precision") if by_trial else chosen, None if loaded else device)
    with opened(raster, detector, bands, pixel_size_m, nodata=nodata, progress=progress) as reader:
        check_place(reader, outputs)
        check_measurable(reader.grid, measure=measure)
        plan = planned(
            reader,
            detector,
            lowest_scores(min_score, detector),
            nms_iou=nms_iou,
            chip_size=chip_size,
            overlap=overlap,
            batch_size=earlier.get("batch_size") if batch_size is None else batch_size,
            area=None if aoi is None else read_area(aoi, reader.grid),
            tta=tta,
        )
        check_numbers(reader, detector, plan)
        work = None
        if client is not None:
            travelling = Path(model) if isinstance(model, str | Path) else named
            work = Work(reader, travelling, plan, device=device, precision=getattr(detector, "precision", None))
        runner = runner_for(detector, plan)
        scene = _Scene(reader, detector, plan, runner, measure=measure, progress=progress, client=client, work=work)
        if not outputs:
            return scene.features()
        with held(journal_of(outputs[0]).with_suffix("")):
            scene.write(outputs, resume=resume)
        return outputs if isinstance(output, Sequence) and not isinstance(output, str) else outputs[0]


def _outputs(output: Any, raster: Rasters, aoi: Any) -> list[Path]:
    """The files to write, which can be; none for None.

    Raises:
        GeodetectError: if one cannot be written, two are the same, or one is what is to be read.
    """
    if output is None:
        return []
    several = list(output) if isinstance(output, Sequence) and not isinstance(output, str) else [output]
    paths = [check_output(path) for path in several]
    if not paths or len({os.path.normcase(os.path.realpath(path)) for path in paths}) < len(paths):
        raise ArgumentError(f"output must be a file or several different ones; got {output!r:.200}")
    check_parts(paths)
    if replaced := [path for path in paths if path.exists()]:
        read = [*files_of(raster)[0], *vector_paths(aoi)]
        for path in replaced:
            if any(os.path.exists(file) and path.samefile(file) for file in read):
                raise OutputError(f"{path} is to be read, and would be replaced; choose another output")
    return paths


@dataclass(frozen=True, eq=False)
class _Scene:
    """One scene, and all that is to be done with it.

    Args:
        reader: its pixels.
        detector: what finds objects in them.
        plan: how it is cut up.
        runner: the detector, as the plan asks it.
        measure: whether sizes on the ground are told.
        progress: whether a bar is shown.
        client: of the cluster that scans it; None: it is scanned here.
        work: what the cluster is given to do.
    """

    reader: RasterReader
    detector: DetectsPixels
    plan: Plan
    runner: Runner
    measure: bool
    progress: bool
    client: Any
    work: Work | None

    def features(self) -> gpd.GeoDataFrame:
        """All objects, best score first; how they were found is in its `attrs`."""
        with closing(self._scanned(range(self.plan.n_strips))) as coming:
            strips = sorted(coming, key=lambda strip: strip.number)
        found = Ranking()
        ran = _sewn(strips, self.reader, self.plan, found)
        boxes = Boxes.concat(found.ranked(), scored=True)
        features = features_of(boxes, self.reader.grid, self.detector.classes, measure=self.measure)
        features.attrs |= {**self._about(ran), SEARCHED: self._searched(ran).wkt}
        return features

    def write(self, outputs: Sequence[Path], *, resume: bool) -> None:
        """Write files that hold all objects, best score first; each complete, or not there.

        Strips go to the journal as they are done. When all are there, they are sewn together from it.
        """
        settings = settings_of(self.reader, self.detector, self.plan)
        journal = Journal(journal_of(outputs[0]), settings, resume=resume)
        todo = [number for number in range(self.plan.n_strips) if number not in journal.done]
        try:
            with closing(self._scanned(todo)) as strips:
                for strip in strips:
                    journal.add(strip)
            with journal.unfinished() as folder:
                found = Ranking(folder)
                self._write_each(outputs, folder, found, _sewn(journal.strips(), self.reader, self.plan, found))
        except GeodetectError as error:
            if not (journal.done and journal.folder.is_dir()):
                raise
            kept = f"{len(journal.done)} of {self.plan.n_strips} strips are kept in {journal.folder.name}"
            raise type(error)(f"{error}; {kept}: go on with resume=True") from error
        journal.discard()

    def _write_each(self, outputs: Sequence[Path], folder: Path, found: Ranking, ran: _Ran) -> None:
        """Write the same objects into each file; one that fails does not keep the others from being written.

        Raises:
            OutputError: if any failed; the message says which, and which are complete.
        """
        failures: list[OutputError] = []
        written: list[str] = []
        searched = self._searched(ran)
        for path in outputs:
            # What is not complete lies in the journal, unless that is on another disk.
            here = folder if through_links(path).parent.stat().st_dev == folder.stat().st_dev else None
            try:
                write_features(self._frames(found), path, workplace=here, about=self._about(ran), searched=searched)
                written.append(path.name)
            except OutputError as error:
                failures.append(error)
        if failures:
            complete = f"; {' and '.join(written)} {'is' if len(written) == 1 else 'are'} complete" if written else ""
            raise OutputError("; ".join(map(str, failures)) + complete) from failures[0]

    def _scanned(self, numbers: Sequence[int]) -> Generator[Strip, None, None]:
        """The strips with these numbers as they are done, here or by the cluster.

        Warns at the end if a file of the raster was changed meanwhile.
        """
        before = state_of(self.reader)
        yield from self._done(numbers)
        if state_of(self.reader) != before:
            warn(
                f"{self.reader.name} was changed while it was read, and what was found may be of both; run it again "
                "if its pixels are others"
            )

    def _done(self, numbers: Sequence[int]) -> Iterator[Strip]:
        """The strips with these numbers as they are done."""
        n_all, n_todo = (self.plan.n_windows(some) for some in (range(self.plan.n_strips), numbers))
        with WindowProgress(n_all, n_all - n_todo, shown=self.progress) as tally:
            if self.work is None:
                with closing(scanned(self.reader, self.runner, self.plan, numbers, passed=tally.add)) as strips:
                    yield from strips  # its threads end here, also after an error
                return
            with closing(scanned_by(self.client, self.work, numbers)) as done:
                for asked, seen in done:
                    tally.add(self.plan.n_windows(asked), sum(strip.n_run for strip in seen))
                    yield from seen

    def _frames(self, found: Ranking) -> Iterator[gpd.GeoDataFrame]:
        """The objects as features, some at a time; at first none, which says what columns there are."""
        for boxes in chain([Boxes.empty(scored=True)], found.ranked()):
            for start in range(0, max(len(boxes), 1), _FRAME_SIZE):
                some = boxes[start : start + _FRAME_SIZE]
                yield features_of(some, self.reader.grid, self.detector.classes, measure=self.measure)

    def _about(self, ran: _Ran) -> dict[str, Any]:
        """How the objects were found: the settings, and how many windows the model saw."""
        settings = settings_of(self.reader, self.detector, self.plan)
        settings["batch_size"] = self.runner.batch_size  # fewer than planned where memory asked for it
        return {**settings, "n_windows": len(self.plan.windows), "n_windows_run": ran.n_windows}

    def _searched(self, ran: _Ran) -> shapely.Geometry:
        """The ground that was searched, in map coordinates."""
        ground = ran.ground if self.plan.area is None else shapely.intersection(ran.ground, self.plan.area)
        areal = [part for part in shapely.get_parts(ground) if part.area > 0]  # not where it only touches the area
        return shapely.transform(joined(areal), self.reader.grid.in_plane().to_map)


def boxes_within(
    reader: Reader, detector: DetectsPixels, area: shapely.Geometry, *, min_score: float, nms_iou: float
) -> Boxes:
    """What `detect_objects` finds in a part of an open raster, best score first, in its pixels.

    Args:
        reader: the raster, its bands and pixels as the detector wants them.
        detector: made ready.
        area: where to look, in the reader's pixels; windows beside it are looked at as far as they meet it.
        min_score: score below which boxes are dropped.
        nms_iou: overlap above which the worse of two boxes of one class is dropped.
    """
    lowest = np.full(len(detector.classes), min_score)
    plan = planned(reader, detector, lowest, nms_iou=nms_iou, area=area)
    found = Ranking()
    with closing(scanned(reader, runner_for(detector, plan), plan, range(plan.n_strips))) as strips:
        _sewn(strips, reader, plan, found)
    return Boxes.concat(found.ranked(), scored=True)


class _Ran(NamedTuple):
    """How much the model saw: a number of windows, and what they hold of the scene, in its pixels."""

    n_windows: int
    ground: shapely.Geometry


def _sewn(strips: Iterable[Strip], reader: Reader, plan: Plan, found: Ranking) -> _Ran:
    """What was run, once `found` holds all objects of the strips, which come from top to bottom.

    Parts are few, and are joined when all are known; only then is it known whether they lie on data.
    """
    seam, parts, n_run, grounds = Seam(plan.nms_iou), [], 0, []
    for strip in strips:
        _, row_end = plan.lines(strip.number)
        found.add(strip.settled)
        found.add(seam.feed(strip.held, row_end))
        parts.append(strip.parts)
        grounds.append(strip.ground)
        n_run += strip.n_run
    found.add(seam.flush())
    whole = join(Parts.concat(parts), found, plan.nms_iou)
    found.add(whole[on_ground(whole, reader, plan)])
    return _Ran(n_run, joined(grounds))
