"""One call of `fit`, from its start to the state that it leaves after success, error or interruption."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.callback.progress import ShowGraphCallback
from fastai.callback.tracker import TrackerCallback
from fastcore.basics import noop
from fastprogress.fastprogress import IN_NOTEBOOK

from geodetect import memory
from geodetect.addresses import expand_user
from geodetect.chips.chip import Chips
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, OutputError, TrainingError, check_flag, check_whole, is_whole, warn
from geodetect.learner import checkpoints, distributed, training
from geodetect.learner.callbacks import BestEpoch, FixHeadNorms, TimeLeft, patience
from geodetect.learner.checkpoints import Checkpoint, State
from geodetect.learner.interrupts import defer_interrupts
from geodetect.learner.loop import DetectionLearner
from geodetect.learner.thresholds import set_min_score

_MOST_EPOCHS = 100_000
_FEW_STEPS = 100  # too few for heads that start from random weights


def check_arguments(
    epochs: Any, callbacks: Sequence[Callback], metrics: Sequence[str], flags: Mapping[str, Any]
) -> None:
    """Raise for arguments that would only fail in the middle of training.

    Args:
        epochs: argument of `fit`.
        callbacks: argument of `fit`.
        metrics: names of what callbacks can monitor.
        flags: arguments of `fit` that are True or False, by name.

    Raises:
        ArgumentError: if `epochs` is below 1, a flag is not a bool, or a callback is not fastai's or not supported.
    """
    if epochs is not None:
        check_whole("epochs", epochs, at_most=_MOST_EPOCHS)
    for name, value in flags.items():
        check_flag(name, value)
    for callback in callbacks if isinstance(callbacks, Iterable) else [None]:
        if not isinstance(callback, Callback):
            raise ArgumentError(f"callbacks must be a list of fastai's Callback objects; got {callbacks!r}")
        if isinstance(callback, TrackerCallback) and callback.monitor not in metrics:
            raise ArgumentError(f"{callback} can monitor {', '.join(metrics)}; got {callback.monitor!r}")
        if isinstance(callback, MixHandler):
            raise ArgumentError(f"{callback} mixes the labels of classifiers and cannot mix boxes; leave it out")
        if getattr(callback, "log_preds", False):
            raise ArgumentError(
                f"{callback} can draw predictions of fastai's own kinds alone; "
                "give it log_preds=False, and look at show_results() instead"
            )


def make_checkpoint(
    model: dict[str, Any],
    best: BestEpoch,
    last: State | None,
    *,
    rate: training.Rate,
    checkpoint: bool | str | Path,
    resume: bool,
) -> Checkpoint:
    """Return the callback that keeps checkpoints of a training, and knows where it starts.

    With `resume` it starts from the state in the folder `checkpoint`, else from `last`. A folder without a state gets a
    new training if `last` froze other parts of the network. `model` is what a training must share for that, as returned
    by `checkpoints.identify`.

    Raises:
        ArgumentError: if a value is not possible.
        TrainingError: if there is nothing to resume, or the state is of another training.
        OutputError: if the folder cannot be created.
    """
    if not isinstance(checkpoint, bool | str | Path):
        raise ArgumentError(f"checkpoint must be True, False, or a folder; got {checkpoint!r}")
    folder = None if isinstance(checkpoint, bool) else checkpoints.make_folder(Path(expand_user(checkpoint)).absolute())
    state = None
    if folder and not resume and last is None and (folder / checkpoints.FILE).exists():
        warn(
            f"{folder} holds the state of another training, which the first epoch of this one replaces; "
            "resume=True goes on with it"
        )
    if resume:
        state = checkpoints.read(folder) if folder else last
        if state is None and last is not None and last.facts["model"]["frozen"] == model["frozen"]:
            state = last
        if state is None and folder is None:
            raise TrainingError(
                "there is no training to resume; call fit() first, with checkpoint=True, or give checkpoint=FOLDER"
            )
    if state is not None:
        checkpoints.check(state, model=model, monitor=best.monitor, where=str(folder or "the last training"))
        state = state.with_model(model)
    rates = rate.choose(None if state is None else state.facts["rates"])
    if state is not None and rates != (before := state.facts["rates"]):
        warn(f"the training to resume had a rate of {max(before):g}, now {max(rates):g}; leave lr out to keep its own")
    return Checkpoint(best, model=model, rates=rates, folder=folder, state=state)


class Fit:
    """One call of `fit`.

    Args:
        detector: detector to train.
        learner: fastai learner over its network.
        checkpoint: callback that keeps checkpoints.
        save_as: file to save the detector to; None for no file.
        last: the call before, whose state and history stand until an epoch of this one is complete.
    """

    def __init__(
        self,
        detector: Detector,
        learner: DetectionLearner,
        checkpoint: Checkpoint,
        save_as: Path | None,
        *,
        last: Fit | None,
    ) -> None:
        self.detector, self.learner, self.checkpoint, self.save_as = detector, learner, checkpoint, save_as
        self.state: State | None = None if last is None else last.state
        self.history: dict[str, Any] | None = None if last is None else last.history
        self.is_training = False

    def run(
        self, epochs: int | None, valid: Chips, *, one_cycle: bool, callbacks: Sequence[Callback], progress: bool
    ) -> None:
        """Train up to `epochs`, keep the best weights, save the detector, and choose the score thresholds.

        With `epochs=None` a resumed training keeps its number of epochs; otherwise the size of the data decides. If an
        error ends training, the best weights so far are kept, and the error is raised again with a note that says so.
        """
        progress = progress and distributed.rank() == 0
        write = _write_text if progress else noop
        if not (progress and _has_bar()):  # graphs are drawn in the bar
            callbacks = [each for each in callbacks if not isinstance(each, ShowGraphCallback)]
        if epochs is None:
            epochs, callbacks = self._choose_epochs(), [*callbacks, TimeLeft(write)]
            write(self._describe_length(epochs))
        elif told := self._describe_shortness(epochs):
            write(told)
        if reason := self._describe_end(epochs):
            write(f"nothing to train: {reason}")
            progress = False
        try:
            try:
                with show_progress(self.learner, progress=progress):
                    self._train(epochs, one_cycle=one_cycle, callbacks=callbacks)
                if progress and self.checkpoint.best.n_done < epochs:
                    write(self._describe_stop(epochs))
            finally:
                with defer_interrupts():
                    self._keep_best()
                    if self._is_finite:  # else the error that ends training says more than one of saving
                        self._save()
            set_min_score(self.detector, valid)
            with defer_interrupts():
                self._save()
        except OutputError:
            raise  # its message says what is kept, and where
        except BaseException as error:  # whatever ends training, Ctrl-C too, the user learns what is left of it
            error.add_note(self._describe())
            raise

    def _choose_epochs(self) -> int:
        """Return the number of epochs of the training that is resumed, else as many as the data need."""
        state = self.checkpoint.state
        planned = None if state is None else state.facts.get("epochs")  # states of earlier versions do not have it
        return planned or training.choose_epochs(self.learner)

    def _describe_length(self, epochs: int) -> str:
        """Return how long a training is whose length was not given."""
        loader, first = self.learner.dls.train, self.checkpoint.first_epoch
        done = f", {_count(first, 'epoch', 'epochs')} done" if first else ""
        return (
            f"{epochs} epochs of {_count(len(loader), 'batch', 'batches')} of {_count(loader.bs, 'chip', 'chips')}: "
            f"{epochs * len(loader):,} steps{done} (pass epochs to change this)"
        )

    def _describe_shortness(self, epochs: int) -> str:
        """Return that so many epochs are too few for a network that starts untrained; "" if they are not."""
        n_steps, suited = epochs * len(self.learner.dls.train), training.choose_epochs(self.learner)
        if n_steps >= _FEW_STEPS or epochs >= suited or not self.detector.network.class_head.gives_prior:
            return ""
        return f"{_count(n_steps, 'step is', 'steps are')} too few to learn much; fit() without epochs makes {suited}"

    def _describe_end(self, epochs: int) -> str:
        """Return why no epoch is left of a training that is resumed; "" if there is one."""
        n_done, best, state = self.checkpoint.first_epoch, self.checkpoint.best, self.checkpoint.state
        if n_done >= epochs:
            return f"{_count(n_done, 'epoch is', 'epochs are')} done; give epochs a larger number"
        if state is not None and best.stop_early and state.facts["waited"] >= patience(epochs):
            n_epochs = _count(n_done, "epoch", "epochs")
            return f"early stopping ended it after {n_epochs}; leave early_stopping out to go on"
        return ""

    def _describe_stop(self, epochs: int) -> str:
        """Return why training ended before its last epoch: early stopping, or a callback."""
        best = self.checkpoint.best
        told = f"stopped after {_count(best.n_done, 'epoch', 'epochs')}"
        is_early = best.stop_early and best.waited >= patience(epochs)
        return f"{told}: no better {best.monitor} in the last {best.waited}" if is_early else told

    def _train(self, epochs: int, *, one_cycle: bool, callbacks: Sequence[Callback]) -> None:
        """Train up to `epochs`; the network is left with the weights of the last step."""
        learner, checkpoint = self.learner, self.checkpoint
        epochs_before: Any = self.detector.metadata.summary.get("epochs")
        learner.seeded_epochs.earlier = int(epochs_before) if is_whole(epochs_before) and epochs_before > 0 else 0
        learner.opt, learner.first_epoch = None, checkpoint.first_epoch
        fit = learner.fit_one_cycle if one_cycle else learner.fit
        halfway = [FixHeadNorms()] if one_cycle else []  # at a constant rate more epochs may follow the last
        self.is_training = True
        try:
            with memory.reuse_freed(), distributed.parallelise(learner.model) as learner.parallel:
                fit(epochs, checkpoint.rates, cbs=[checkpoint.best, checkpoint, *halfway, *callbacks])
        finally:
            learner.parallel, learner.first_epoch, self.is_training = None, 0, False
        learner.stop_on_nan.check()

    def _keep_best(self) -> None:
        """Give the detector the best weights, their scores and a summary; those from before without a full epoch."""
        best = self.checkpoint.best
        best.restore(self.detector.network)
        if not best.n_done:
            return
        recorder = self.learner.recorder
        names = list(recorder.metric_names[1:-1])
        values = np.array([list(row) for row in recorder.values], float).reshape(-1, len(names))
        kept = {name: float(values[best.kept_epoch, names.index(name)]) for name in ("valid_loss", "AP50")}
        summary = {"epochs": self.learner.seeded_epochs.earlier + best.n_done}
        loss = self.learner.loss_func.loss.to_json()
        self.detector.metadata = replace(
            self.detector.metadata,
            min_score=dict(zip(self.detector.classes, best.min_scores, strict=True)),
            summary=summary | {name: value if np.isfinite(value) else None for name, value in kept.items()} | loss,
        )
        self.state = self.checkpoint.state
        self.history = {
            "train": np.array([float(loss) for loss in recorder.losses]),
            "epoch_ends": np.array(recorder.iters, int),
            "valid": values[:, names.index("valid_loss")],
            "ap50": values[:, names.index("AP50")],
        }

    def _save(self) -> None:
        """Save the detector if an epoch is complete; of several processes the first does.

        Raises:
            OutputError: if the file cannot be written; the message names the temporary file that has the detector.
        """
        if self.save_as is None or not self.checkpoint.best.n_done or distributed.rank() != 0:
            return
        try:
            self.detector.save(self.save_as)
        except OutputError as error:
            rescued = self.detector.save(Path(tempfile.mkdtemp(prefix="geodetect-")) / self.save_as.name)
            raise OutputError(f"{error}; it is saved as {rescued} instead") from error

    @property
    def _is_finite(self) -> bool:
        """Whether all weights are finite; the last ones, kept if none are known to be the best, need not be."""
        return all(bool(value.isfinite().all()) for value in self.detector.network.state_dict().values())

    def _describe(self) -> str:
        """Return a description of what an unfinished training leaves."""
        best, file = self.checkpoint.best, self.save_as
        if not best.n_done:
            left = "the model is as it was before" if file is None else "nothing was written"
            return f"no epoch was complete, so {left}"
        if not self._is_finite:
            return f"the model's weights are not finite{'' if file is None else ', so nothing was written'}"
        epochs = "epoch" if best.n_done == 1 else "epochs"
        held = "the model holds" if file is None else f"wrote {file} with"
        return f"{held} the {'best' if best.keep else 'last'} weights of {best.n_done} {epochs}"


def _has_bar() -> bool:
    """Return whether standard output is a notebook or a terminal."""
    return IN_NOTEBOOK or sys.stdout.isatty()


@contextmanager
def show_progress(learner: DetectionLearner, *, progress: bool) -> Iterator[None]:
    """Show a bar and a table of epochs; in a file or a pipe, lines; without `progress`, nothing."""
    try:
        if progress and _has_bar():
            yield
            return
        with learner.no_bar():
            learner.logger = _write_line if progress else noop
            if progress:
                _write_line(["epoch", "train_loss", "valid_loss", *(metric.name for metric in learner.metrics), "time"])
            yield
    finally:
        learner.logger = print


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _write_line(values: Iterable[Any]) -> None:
    """Write one epoch, in columns."""
    row = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in values]
    _write_text("".join(f"{text:>12}" for text in row))


def _write_text(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
