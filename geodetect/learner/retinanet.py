"""RetinaNet, with the methods that users of `arcgis.learn` and fastai expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np
import torch

from geodetect import plots
from geodetect.addresses import expand_user
from geodetect.chips import DetectionData
from geodetect.detector import Detector, read_detector
from geodetect.detector.file import check_output
from geodetect.errors import TrainingError, check_flag, warn
from geodetect.export import export
from geodetect.facts import html_table
from geodetect.learner import build, mistakes, results, thresholds, training
from geodetect.learner.callbacks import BestEpoch
from geodetect.learner.checkpoints import identify
from geodetect.learner.fit import Fit, check_arguments, make_checkpoint
from geodetect.learner.interrupts import defer_interrupts
from geodetect.learner.loop import DetectionLearner
from geodetect.learner.weights import Start, adapt, check_alike, fill, load_trainable
from geodetect.metadata import NMS_IOU
from geodetect.network import backbones
from geodetect.network.losses import Loss
from geodetect.raster import Rasters
from geodetect.scene import DetectOptions, detect_objects

if TYPE_CHECKING:
    from fastai.callback.core import Callback
    from fastai.learner import Learner
    from geopandas import GeoDataFrame
    from matplotlib.figure import Figure
    from pandas import DataFrame


class RetinaNet:
    """A RetinaNet (arXiv:1708.02002) that learns from `data` and gives a `Detector`.

    Args:
        data: result of `prepare_data`.
        backbone: one of `RetinaNet.backbones()`.
        scales: sides of a cell's anchors over the base side; "auto" fits scales, ratios and base to the data.
        ratios: height over width of a cell's anchors.
        anchor_size: base side of an anchor as a multiple of its level's stride (4: 32 px at P3).
        levels: first and last level of the pyramid: (3, 7), or (2, 7) for objects under 16 px.
        weights: "imagenet"; "coco", torchvision's published RetinaNet (resnet50 only); None for random ones; or a
            file: a saved detector, or a state dict of torchvision's RetinaNet, of a network like this one, or, for the
            backbone alone, of a classifier.
        size: "small" for a pyramid of 96 channels and heads of two convolutions, which are faster on a processor; None
            for the size of the weights, else the paper's 256 channels and four convolutions.
        head_norm: normalisation after the convolutions of the heads: "batch" (separate for each level), "group", or
            False for none, as in the paper, which trains more slowly. None: that of the weights, else "batch".
        freeze: True freezes the backbone, False nothing; None only its batch norms if its weights are pretrained, since
            their statistics over a few chips are worse than those they come with.
        box_weight: weight of the box loss beside the focal loss; None is 2 with `giou`, 1 without.
        focal_alpha: weight of positives in the focal loss, 0 to 1.
        focal_gamma: how much easy anchors are discounted, 0 or more.
        giou: generalised IoU as box loss, for oriented boxes ProbIoU, instead of the paper's smooth L1. With `False`
            and `head_norm=False` heads and losses are the paper's.
        seed: seed of the random weights and of training.
        device: "cpu", "cuda", ...; None takes a GPU when there is one.

    Raises:
        GeodetectError: if a parameter is not usable, or the weights do not fit.
    """

    def __init__(
        self,
        data: DetectionData,
        *,
        backbone: str = "resnet50",
        scales: Sequence[float] | str = (1, 2 ** (1 / 3), 2 ** (2 / 3)),
        ratios: Sequence[float] = (0.5, 1, 2),
        anchor_size: float = 4,
        levels: Sequence[int] = (3, 7),
        weights: str | Path | None = "imagenet",
        size: str | None = None,
        head_norm: str | bool | None = None,
        freeze: bool | None = None,
        box_weight: float | None = None,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        giou: bool = True,
        seed: int = 42,
        device: str | torch.device | None = None,
    ) -> None:
        loss = build.make_loss(box_weight=box_weight, focal_alpha=focal_alpha, focal_gamma=focal_gamma, giou=giou)
        build.check_data(data)
        start = Start.read(weights)  # first, as fitting anchors can take long
        spec = build.choose_anchors(data, scales=scales, ratios=ratios, anchor_size=anchor_size, levels=levels)
        architecture = build.choose_architecture(
            backbone, spec, start, size=size, head_norm=head_norm, oriented=data.oriented
        )
        frozen = freeze is not None and check_flag("freeze", freeze)
        detector = build.make_detector(data, architecture, start, seed=seed, device=device)
        keep_norms = detector.network.backbone.pretrained and freeze is not False
        self._set(detector, data, loss, seed, keep_norms=keep_norms)
        if frozen:
            self.freeze()

    def _set(
        self, detector: Detector, data: DetectionData | None, loss: Loss, seed: int, *, keep_norms: bool = True
    ) -> None:
        self._detector, self.data, self.seed, self._loss = detector, data, seed, loss
        self._keep_norms = keep_norms  # of the backbone
        self._rate: float | None = None  # found by `lr_find`
        self.unfreeze()
        self._learner: DetectionLearner | None = None
        self._fit: Fit | None = None  # the last training

    @classmethod
    def from_model(
        cls, path: str | Path, data: DetectionData | None = None, *, device: str | torch.device | None = None
    ) -> RetinaNet:
        """Load a saved or published detector to use it, or, with `data`, to go on training with the same loss.

        Files do not hold what was frozen: all but the backbone's batch norms is trained, until `freeze` is called.

        Args:
            path: a `.safetensors` file that `save` wrote, or another name that `load_detector` takes, but for `.onnx`.
            data: chips with the same classes and number of bands. The detector takes over their bands, pixel size and
                chip size, with a warning if bands or pixel size change.
            device: "cpu", "cuda", ...; None takes a GPU when there is one.

        Raises:
            ModelError: if there is no such detector, it cannot be trained, or it does not fit the data.
        """
        model = cls.__new__(cls)
        detector = load_trainable(path, device=device)
        for note in adapt(detector, data, str(path)) if data is not None else ():
            warn(note)
        model._set(detector, data, Loss.from_json(detector.summary), 42)
        return model

    def __repr__(self) -> str:
        return f"RetinaNet({self._detector!r}, {'no data' if self.data is None else repr(self.data)})"

    def _repr_html_(self) -> str:
        return html_table("RetinaNet", self._detector.facts | {"data": self.data})

    @staticmethod
    def backbones() -> list[str]:
        """Return the names that `backbone` takes, besides "timm:NAME"; EfficientNet-Lite needs the extra `offline`."""
        return backbones.list_names()

    @property
    def detector(self) -> Detector:
        """The detector that inference uses: the network as it is now, with its metadata."""
        if self._fit is None or not self._fit.is_training:  # else callbacks that save or detect would change training
            self._detector.network.eval()
        return self._detector

    @property
    def learner(self) -> Learner:
        """The fastai `Learner` that trains the network."""
        if self._learner is None:
            data = self._need_data("training")
            self._learner = training.make_learner(
                self._detector, data, self._loss, seed=self.seed, freeze_groups=self._freeze_groups
            )
        return self._learner

    def _need_data(self, purpose: str) -> DetectionData:
        if self.data is None:
            raise TrainingError(f"{purpose} needs data; give it: RetinaNet.from_model(path, data)")
        return self.data

    def freeze(self) -> None:
        """Freeze the backbone's weights, and forget what `lr_find` found for all of them.

        Warns if they are random, as they will never learn then.
        """
        self._freeze_groups(1)

    def unfreeze(self) -> None:
        """Let the backbone's weights be trained, with `freeze=False` its pretrained batch norms too.

        What `lr_find` found with the backbone frozen is forgotten: it is often too high for all weights.
        """
        self._freeze_groups(0)

    def _freeze_groups(self, n: int) -> None:
        """Freeze the first n groups of `split_parameters`, and let all others be trained."""
        self._rate = None
        network, frozen = self._detector.network, training.split_parameters(self._detector.network)[:n]
        network.requires_grad_(True)
        network.freeze_backbone(bool(frozen), norms=self._keep_norms)
        for group in frozen[1:]:
            for parameter in group:
                parameter.requires_grad_(False)
        if frozen and not network.backbone.pretrained and network.class_head.gives_prior:
            warn(
                "the backbone has random weights and, frozen, never learns; call unfreeze(), or give RetinaNet "
                'trained weights: weights="imagenet", or a file'
            )

    def lr_find(self, *, plot: bool = True) -> float:
        """Find a learning rate for this network and data; the weights stay as they were.

        Trains up to 100 batches at a growing rate. `fit` uses the result unless it is given a rate, until the backbone
        is frozen or unfrozen.

        Args:
            plot: show the losses over the rates in a notebook.
        """
        self._rate, rates, losses = training.find_rate(self.learner)
        if plot:
            results.display(plots.draw_rates(rates, losses, self._rate))
        return self._rate

    def fit(
        self,
        epochs: int | None = None,
        lr: float | slice | None = None,
        *,
        one_cycle: bool = True,
        early_stopping: bool = False,
        checkpoint: bool | str | Path = True,
        monitor: str = "valid_loss",
        callbacks: Sequence[Callback] = (),
        resume: bool = False,
        save_as: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        """Train the network from its current weights; the detector counts the epochs of all calls.

        If Ctrl-C or an error ends training, the network keeps the best weights so far, those from before if no epoch
        was completed, and the error is raised again. At the end of a complete training the score with the best F1 on
        a map of the validation ground becomes the detector's `min_score`. Under `torchrun`, and in a group of
        `torch.distributed`, all processes train one network.

        Args:
            epochs: passes over the training chips, including those of a resumed training; at least 1. None: 10, or on
                small data as many as give 500 steps and 2,000 chips; with `progress` the number is printed, and
                after the first epoch the time left.
            lr: peak learning rate; None is the result of `lr_find`, else 5e-4. slice(low, high) is low for the
                backbone, high for the heads, and their geometric mean for the pyramid.
            one_cycle: let the rate rise and fall once, and fix the statistics of the heads' batch norms halfway; else
                the rate is constant and they are never fixed.
            early_stopping: end after a third of the epochs, at least 5, without a better `monitor`.
            checkpoint: end with the weights of the epoch with the best `monitor`, else with the last; a folder
                also keeps the state of training after each epoch, so that it can go on after a crash. Two phases,
                before and after `unfreeze`, need a folder each.
            monitor: "valid_loss", or "AP50"; of epochs with the same AP50 the one with the lowest loss is the best.
            callbacks: fastai callbacks; the network gives them (logits (B, A, K), deltas (B, A, 4 or 6)). For logs:
                CSVLogger("losses.csv"), TensorBoardCallback("runs", trace_model=False, log_preds=False).
            resume: go on with the last training of this model, or with that in the folder `checkpoint`, which is
                started if there is none. The backbone must be frozen, or not, as it was.
            save_as: a `.safetensors` file to save the detector to as soon as training ends, even by an error, and
                again when its `min_score` is chosen.
            progress: show a bar, with losses and AP50 for each epoch.

        Raises:
            ArgumentError: if a value is not possible.
            TrainingError: if there is no data or nothing to resume, or the loss is no longer finite.
            OutputError: if `save_as` or the folder `checkpoint` cannot be written.
        """
        learner, last, data = self.learner, self._fit, self._need_data("fit")
        metrics = ["train_loss", "valid_loss", *(metric.name for metric in learner.metrics)]
        flags = {"one_cycle": one_cycle, "early_stopping": early_stopping, "resume": resume}
        check_arguments(epochs, callbacks, metrics, flags)
        file = None if save_as is None else Path(expand_user(save_as)).absolute()
        if file is not None:
            check_output(file)
        best = BestEpoch(monitor, keep=bool(checkpoint), stop_early=early_stopping)
        best.warn_if_unknown(data.valid)
        keeper = make_checkpoint(
            identify(self._detector, self._loss, data, {"seed": self.seed, "one_cycle": one_cycle}),
            best,
            None if last is None else last.state,
            rate=training.Rate(lr, self._rate),
            checkpoint=checkpoint,
            resume=resume,
        )
        self._fit = Fit(self._detector, learner, keeper, file, last=last)
        self._fit.run(epochs, data.valid, one_cycle=one_cycle, callbacks=callbacks, progress=progress)

    def plot_losses(self) -> Figure:
        """Draw the last training: loss of every batch, validation loss and AP50 of every epoch."""
        if self._fit is None or self._fit.history is None:
            raise TrainingError("there are no losses to plot yet; call fit() first")
        return plots.draw_losses(**self._fit.history)

    def show_results(self, rows: int = 4, *, min_score: float | None = None) -> Figure:
        """Draw validation chips, true boxes to the left and detections to the right.

        Args:
            rows: number of chips.
            min_score: detections below are not drawn; None is the detector's `min_score`.
        """
        return results.show_results(self.detector, self._need_data("show_results").valid, rows, min_score)

    def show_errors(self, rows: int = 4) -> Figure:
        """Draw the worst false detections and missed objects on the validation chips, two of each in a row."""
        return mistakes.show_errors(self.detector, self._need_data("show_errors").valid, rows)

    def average_precision_score(self, *, match_iou: float = 0.5, mean: bool = False) -> dict[str, float] | float:
        """Return the average precision of each class on the validation chips, 0 to 1; NaN without an object.

        Args:
            match_iou: overlap from which a detection counts as right.
            mean: return the mean over the classes that have an object instead.
        """
        valid = self._need_data("average_precision_score").valid
        scores = results.average_precision(self.detector, valid, match_iou)
        known = [score for score in scores.values() if np.isfinite(score)]
        return float(np.mean(known or np.nan)) if mean else scores

    def evaluate(self) -> DataFrame:
        """Return COCO's scores on the validation chips, 0 to 1, without its limit of 100 boxes a chip.

        Returns:
            rows classes and `all`, the mean over classes; columns AP, AP50, AP75, APs, APm, APl and AR,
            NaN where there is no object (of that size).
        """
        return results.evaluate(self.detector, self._need_data("evaluate").valid)

    def tune(self) -> DataFrame:
        """Return the best F1 and the scores that give it at each `nms_iou`, on a map of the validation ground.

        The scores for the default 0.5 become the detector's `min_score`; if another row is better, pass its `nms_iou`
        and scores to `detect_objects`. Columns are `f1` (each class, and `all`) and `min_score` (each class).
        """
        table = thresholds.tune(self.detector, self._need_data("tune").valid)
        self._detector.min_score = table["min_score"].loc[NMS_IOU].to_dict()
        return table

    @overload
    def detect(self, raster: Rasters, output: None = None, **options: Unpack[DetectOptions]) -> GeoDataFrame: ...
    @overload
    def detect(self, raster: Rasters, output: str | Path, **options: Unpack[DetectOptions]) -> Path: ...  # type: ignore[overload-overlap]
    @overload
    def detect(self, raster: Rasters, output: Sequence[str | Path], **options: Unpack[DetectOptions]) -> list[Path]: ...
    def detect(self, raster: Rasters, output: Any = None, **options: Any) -> GeoDataFrame | Path | list[Path]:
        """Return `detect_objects(raster, self, output, ...)`; the options are its own."""
        return detect_objects(raster, self, output, **options)

    def predict(
        self,
        image: str | Path | np.ndarray,
        *,
        min_score: float | Mapping[str, float] | None = None,
        nms_iou: float = 0.5,
    ) -> GeoDataFrame:
        """Detect objects in one image: columns `label`, `score` and `geometry`, highest score first.

        Args:
            image: a raster file of any size, or an array (C, H, W) that is processed in one piece.
            min_score: detections below are dropped; None is the detector's `min_score`.
            nms_iou: overlap above which the lower-scored of two boxes of a class is dropped.

        Returns:
            polygons in the raster's CRS; in pixels, y down, without georeference and for an array.

        Raises:
            ArgumentError: if the image is neither, does not fit into memory, or a threshold is not between 0 and 1.
        """
        if isinstance(image, str | Path):
            return detect_objects(image, self, min_score=min_score, nms_iou=nms_iou, progress=False)
        return results.predict(self.detector, image, min_score, nms_iou)

    def export(self, path: str | Path, layout: str | None = None) -> Path:
        """Write the detector in the format of the suffix, for other programs, and return the path.

        Args:
            path: `.onnx` for GeoDeep, Deepness, Ultralytics and onnxruntime, `.dlpk` for ArcGIS (experimental), `.pt2`
                for PyTorch, `.json` for a STAC item that describes a `.pt2` file, which is written beside it.
            layout: output of an `.onnx` file, by the `det_type` of Deepness: "YOLO_v9" (the default, which all of
                them read), "YOLO_Ultralytics" or "YOLO_v5_or_v7_default"; for oriented boxes "YOLO_Ultralytics_obb"
                alone; "stac-mlm" is the only one of `.json`.

        Raises:
            OutputError: if the suffix is another, or the file cannot be written.
            ArgumentError: if the format has no such layout.
            MissingPackage: for `.onnx` without the extra `onnx`.
        """
        return export(self.detector, path, layout)

    def save(self, path: str | Path) -> Path:
        """Write the detector to one `.safetensors` file, with all that inference needs, and return the path."""
        return self.detector.save(path)

    def load(self, path: str | Path) -> None:
        """Load the weights of a saved detector of the same architecture and classes.

        Raises:
            ModelError: if the file is not a detector, or does not fit; the model stays as it was.
        """
        saved = read_detector(path, device="cpu")
        check_alike(saved, self._detector, str(path))
        with defer_interrupts():
            notes = fill(self._detector, saved, str(path))
            self._learner = self._fit = None
        for note in notes:
            warn(note)
