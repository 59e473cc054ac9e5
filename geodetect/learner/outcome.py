"""What a training leaves, however it ended: the best weights, the scores to cut at, and a file of them."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from geodetect.chips.chip import Chips
from geodetect.detector import Detector
from geodetect.errors import GeodetectError, OutputError, is_whole
from geodetect.learner import distributed, results, thresholds, training
from geodetect.learner.checkpoints import Checkpoint
from geodetect.learner.loop import DetectionLearner


def epochs_of(detector: Detector) -> int:
    """Return how many epochs the detector says that it was trained for."""
    told: Any = detector.metadata.summary.get("epochs")
    return int(told) if is_whole(told) and told > 0 else 0


def take_over(detector: Detector, course: Checkpoint, learner: DetectionLearner) -> dict[str, Any] | None:
    """Give the detector the best weights, with their scores of chips and their summary; return the history of losses.

    If no epoch was completed the weights are those from before, and there is no history.
    """
    best = course.best
    best.restore(detector.network)
    if not best.n_done:
        return None
    history = training.history(learner)
    detector.metadata = replace(
        detector.metadata,
        min_score=dict(zip(detector.classes, best.min_scores, strict=True)),
        summary=results.summary(history, learner.seeded_epochs.earlier + best.n_done, best.kept_epoch),
    )
    return history


def cut_as_maps_do(detector: Detector, chips: Chips) -> None:
    """Set the scores to those that serve a map of the chips' ground; where it cannot be mapped, warn and leave them.

    The first of several processes finds them out for all.
    """
    scores, problem = detector.min_score, ""
    if distributed.rank() == 0:
        try:
            scores = thresholds.operating_point(detector, chips)
        except (GeodetectError, OSError, MemoryError, RuntimeError) as error:  # the last: also torch's lack of memory
            problem = str(error) or type(error).__name__
    scores, problem = distributed.gathered([(scores, problem)])[0]
    if problem:
        warnings.warn(
            f"the scores to cut at are those of chips, as the validation ground could not be mapped: {problem}",
            UserWarning,
            stacklevel=3,
        )
    detector.min_score = scores


def save(detector: Detector, course: Checkpoint, file: Path | None) -> None:
    """Save a detector that was trained; of several processes the first does.

    Raises:
        OutputError: if the file cannot be written; the message says where among the temporary files the detector is.
    """
    if file is None or not course.best.n_done or distributed.rank() != 0:
        return
    try:
        detector.save(file)
    except OutputError as error:
        rescued = detector.save(Path(tempfile.mkdtemp(prefix="geodetect-")) / file.name)
        raise OutputError(f"{error}; it is saved as {rescued} instead") from error


def what_is_kept(course: Checkpoint, file: Path | None) -> str:
    """Say what a training that did not come to its end leaves."""
    best = course.best
    if not best.n_done:
        return "no epoch was complete, so " + (
            "the model is as it was before" if file is None else "nothing was written"
        )
    epochs = "epoch" if best.n_done == 1 else "epochs"
    held = "the model holds" if file is None else f"wrote {file} with"
    return f"{held} the {'best' if best.keep else 'last'} weights of {best.n_done} {epochs}"
