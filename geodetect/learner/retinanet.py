"""RetinaNet as users of ArcGIS' `arcgis.learn` and of fastai know it: data in, detector out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np
import torch

from geodetect import plots
from geodetect.addresses import expanded
from geodetect.chips import DetectionData
from geodetect.detector import Detector, load_detector
from geodetect.detector.file import check_output
from geodetect.errors import OutputError, TrainingError, warn
from geodetect.export import export
from geodetect.facts import html_table
from geodetect.learner import build, mistakes, outcome, results, thresholds, training
from geodetect.learner.checkpoints import State
from geodetect.learner.interrupts import held_back
from geodetect.learner.weights import adapt, fill, is_saved_detector, refuse_others
from geodetect.metadata import NMS_IOU, Metadata
from geodetect.network import backbones
from geodetect.network.losses import loss
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
        data: what `prepare_data` gave.
        backbone: one of `RetinaNet.backbones()`.
        scales: sides of a cell's anchors over the base side; "auto" fits scales, ratios and base to the data.
        ratios: height over width of a cell's anchors.
        anchor_size: base side of an anchor as a multiple of its level's stride (4: 32 px at P3).
        levels: first and last level of the pyramid: (3, 7), or (2, 7) for objects under 16 px.
        weights: "imagenet"; "coco", torchvision's published RetinaNet (resnet50 only); None for random ones; or a
            file: a saved detector, or a state dict of torchvision's RetinaNet or, for the backbone alone, classifier.
        size: "small" for a pyramid of 96 channels and heads of two convolutions, which are faster on a processor; None
            for what the weights have, else the paper's 256 channels and four convolutions.
        head_norm: what follows the convolutions of the heads: "batch" norm by level, "group" norm, or False for
            nothing, as in the paper, which takes longer to learn. None: what the weights have, else "batch".
        freeze: whether the backbone stays as it is; None is False.
        box_weight: weight of the box loss beside the focal loss.
        focal_alpha: weight of positives in the focal loss, 0 to 1.
        focal_gamma: how much easy anchors are discounted, 0 or more.
        giou: take generalised IoU as box loss, which places boxes better, where the paper has smooth L1.
        seed: of the random weights and of training.
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
        box_weight: float = 1.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        giou: bool = False,
        seed: int = 42,
        device: str | torch.device | None = None,
    ) -> None:
        build.check_numbers(box_weight=box_weight, focal_alpha=focal_alpha, focal_gamma=focal_gamma, seed=seed)
        build.check_boxes(data)
        spec = build.anchors(data, scales=scales, ratios=ratios, anchor_size=anchor_size, levels=levels)
        weights = expanded(weights) if isinstance(weights, str | Path) else weights
        saved = load_detector(str(weights), device="cpu") if is_saved_detector(weights) else None
        network = build.network(
            data,
            backbone,
            weights if saved is None else None,
            spec=spec,
            size=size,
            head_norm=head_norm,
            seed=seed,
            like=None if saved is None else saved.network,
        )
        metadata = Metadata(
            classes=data.classes,
            bands=data.bands,
            chip_size=data.chip_size,
            overlap=data.chip_size // 4,
            pixel_size_m=data.pixel_size_m,
            stretch=build.stretch(data, network),
        )
        detector = Detector(network, metadata, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
        own = partial(loss, box_weight=box_weight, alpha=focal_alpha, gamma=focal_gamma, giou=giou)
        self._become(detector, data, seed=seed, own_loss=own)
        for sentence in fill(detector, saved, str(weights)) if saved is not None else ():
            warn(sentence)
        if freeze:
            self.freeze()

    def _become(
        self,
        detector: Detector,
        data: DetectionData | None,
        *,
        seed: int = 42,
        own_loss: Callable[..., tuple[torch.Tensor, torch.Tensor]] = loss,
    ) -> None:
        self._detector, self.data, self.seed, self._loss = detector, data, seed, own_loss
        self._learner: Learner | None = None
        self._rate: float | None = None
        self._history: dict[str, Any] | None = None
        self._state: State | None = None

    @classmethod
    def from_model(
        cls, path: str | Path, data: DetectionData | None = None, *, device: str | torch.device | None = None
    ) -> RetinaNet:
        """A saved detector as a learner: to use it, or, with `data`, to go on training.

        Args:
            path: a `.safetensors` file that `save` wrote.
            data: chips of the same classes and number of bands. Their bands, pixel size and chip size are those of the
                detector from here on; a warning tells when bands or pixel size were others.
            device: "cpu", "cuda", ...; None takes a GPU when there is one.

        Raises:
            ModelError: if the file is not a detector, or does not fit the data.
        """
        model = cls.__new__(cls)
        detector = load_detector(path, device=device)
        for sentence in adapt(detector, data, str(path)) if data is not None else ():
            warn(sentence)
        model._become(detector, data)
        return model

    def __repr__(self) -> str:
        return f"RetinaNet({self._detector!r}, {'no data' if self.data is None else repr(self.data)})"

    def _repr_html_(self) -> str:
        return html_table("RetinaNet", self._detector.facts | {"data": self.data})

    @staticmethod
    def backbones() -> list[str]:
        """The names that `backbone` takes; "timm:NAME" takes any of timm's. EfficientNet-Lite needs `offline`."""
        return backbones.names()

    @property
    def detector(self) -> Detector:
        """What inference uses: the network as it stands now, with all that it needs to be run."""
        self._detector.network.eval()
        return self._detector

    @property
    def learner(self) -> Learner:
        """The fastai `Learner` that trains the network."""
        if self._learner is None:
            self._learner = training.make_learner(
                self._detector, self._needed("training"), loss=self._loss, seed=self.seed
            )
        return self._learner

    def _needed(self, purpose: str) -> DetectionData:
        if self.data is None:
            raise TrainingError(f"{purpose} needs data; give it: RetinaNet.from_model(path, data)")
        return self.data

    def freeze(self) -> None:
        """Keep the backbone's weights as they are in training."""
        self._detector.network.freeze_backbone(True)

    def unfreeze(self) -> None:
        """Train all weights, the backbone's too."""
        self._detector.network.freeze_backbone(False)

    def lr_find(self, *, plot: bool = True) -> float:
        """A learning rate that suits this network and data; the weights stay as they were.

        Trains up to 100 batches at a growing rate. `fit` takes the rate when it is given none.

        Args:
            plot: show the losses over the rates in a notebook.
        """
        self._rate, rates, losses = training.find_rate(self.learner)
        if plot:
            results.show(plots.lr_figure(rates, losses, self._rate))
        return self._rate

    def fit(
        self,
        epochs: int = 10,
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
        """Train the network further, from the weights that it has; the detector counts the epochs of all calls.

        Whatever ends it, Ctrl-C or an error, leaves the best weights so far and is raised again; if no epoch was
        completed, the weights are those from before. After a training that was not interrupted the score that gives
        the best F1 on a map of the validation ground becomes the detector's `min_score`. Under `torchrun`, and in a
        group that `torch.distributed` set up, all processes train one network.

        Args:
            epochs: how often every training chip is seen, those of a resumed training included; at least 1.
            lr: peak learning rate; None is what `lr_find` gave, else 5e-4. A backbone with ImageNet weights takes
                a tenth of it; slice(low, high) is low for the backbone and high for the heads.
            one_cycle: let the rate rise and fall once, and fix the statistics of the heads' batch norms halfway; else
                the rate is constant and they are never fixed.
            early_stopping: end after 5 epochs without a better `monitor`.
            checkpoint: have the weights of the epoch with the best `monitor` at the end, else the last; a folder
                keeps the state of training after each epoch too, so that it can go on after a crash.
            monitor: "valid_loss", or "AP50".
            callbacks: fastai callbacks; the network gives them (logits (B, A, K), deltas (B, A, 4)). For logs:
                CSVLogger("losses.csv"), TensorBoardCallback("runs", trace_model=False, log_preds=False).
            resume: go on where the last training of this model, or that in the folder `checkpoint`, was left;
                in a folder without one, start.
            save_as: a `.safetensors` file to save the detector to as soon as training ends, whatever ends it, and
                again when its `min_score` is chosen.
            progress: show a bar, with losses and AP50 for each epoch.

        Raises:
            ArgumentError: if a value is not possible.
            TrainingError: if there is no data or nothing to resume, or the loss stops being a number.
            OutputError: if `save_as` or the folder `checkpoint` cannot be written.
        """
        training.check(epochs, callbacks)
        file = None if save_as is None else Path(expanded(save_as))
        if file is not None:
            check_output(file)
        learner, detector = self.learner, self._detector
        learner.seeded_epochs.earlier = outcome.epochs_of(detector)
        course = training.begin(
            detector,
            rate=self._rate if lr is None and not resume else lr,
            monitor=monitor,
            early_stopping=early_stopping,
            checkpoint=checkpoint,
            resume=resume,
            last=self._state,
        )
        try:
            try:
                with training.shown(learner, progress=progress):
                    training.run(learner, epochs, course, one_cycle=one_cycle, callbacks=callbacks)
            finally:
                with held_back():
                    history = outcome.take_over(detector, course, learner)
                    if history is not None:
                        self._state, self._history = course.state, history
                    outcome.save(detector, course, file)
            outcome.cut_as_maps_do(self.detector, self._needed("fit").valid)
            with held_back():
                outcome.save(detector, course, file)
        except OutputError:
            raise  # it says itself what is kept, and where
        except BaseException as error:
            error.add_note(outcome.what_is_kept(course, file))
            raise

    def plot_losses(self) -> Figure:
        """A figure of the last training: loss of every batch, validation loss and AP50 of every epoch."""
        if self._history is None:
            raise TrainingError("there are no losses to plot yet; call fit() first")
        return plots.losses_figure(**self._history)

    def show_results(self, rows: int = 4, *, min_score: float | None = None) -> Figure:
        """A figure of validation chips, true boxes to the left and detections to the right.

        Args:
            rows: how many chips.
            min_score: detections below are not drawn; None is the detector's `min_score`.
        """
        return results.show_results(self.detector, self._needed("show_results").valid, rows, min_score)

    def show_errors(self, rows: int = 4) -> Figure:
        """A figure of the worst false detections and missed objects on the validation chips, two of each in a row."""
        return mistakes.show_errors(self.detector, self._needed("show_errors").valid, rows)

    def average_precision_score(self, *, match_iou: float = 0.5, mean: bool = False) -> dict[str, float] | float:
        """Average precision of each class on the validation chips, 0 to 1; NaN for a class without an object.

        Args:
            match_iou: overlap from which a detection counts as right.
            mean: give the mean over the classes that have an object instead.
        """
        valid = self._needed("average_precision_score").valid
        scores = results.average_precision(self.detector, valid, match_iou)
        known = [score for score in scores.values() if np.isfinite(score)]
        return float(np.mean(known or np.nan)) if mean else scores

    def evaluate(self) -> DataFrame:
        """COCO's scores on the validation chips, 0 to 1, without its cap of 100 boxes a chip.

        Returns:
            rows classes and `all`, the mean over classes; columns AP, AP50, AP75, APs, APm, APl and AR,
            NaN where there is no object (of that size).
        """
        return results.evaluate(self.detector, self._needed("evaluate").valid)

    def tune(self) -> DataFrame:
        """The best F1 and the scores that give it at each `nms_iou`, on a map of the validation ground.

        Those for the default 0.5 become the detector's `min_score`; where another row is better, give its `nms_iou`
        and scores to `detect_objects`. Columns are `f1` (each class, and `all`) and `min_score` (each class).
        """
        table = thresholds.tune(self.detector, self._needed("tune").valid)
        self._detector.min_score = table["min_score"].loc[NMS_IOU].to_dict()
        return table

    @overload
    def detect(self, raster: Rasters, output: None = None, **options: Unpack[DetectOptions]) -> GeoDataFrame: ...
    @overload
    def detect(self, raster: Rasters, output: str | Path, **options: Unpack[DetectOptions]) -> Path: ...  # type: ignore[overload-overlap]
    @overload
    def detect(self, raster: Rasters, output: Sequence[str | Path], **options: Unpack[DetectOptions]) -> list[Path]: ...
    def detect(self, raster: Rasters, output: Any = None, **options: Any) -> GeoDataFrame | Path | list[Path]:
        """What `detect_objects(raster, self, output, ...)` gives; the options are its."""
        return detect_objects(raster, self, output, **options)

    def predict(
        self,
        image: str | Path | np.ndarray,
        *,
        min_score: float | Mapping[str, float] | None = None,
        nms_iou: float = 0.5,
    ) -> GeoDataFrame:
        """What is found in one picture: columns `label`, `score` and `geometry`, best score first.

        Args:
            image: a raster file of any size, or an array (C, H, W) that is looked at in one piece.
            min_score: detections below are left out; None is the detector's `min_score`.
            nms_iou: overlap above which the worse of two boxes of a class is dropped.

        Returns:
            polygons in the raster's CRS; in pixels, y down, when it has no georeference, as an array has none.

        Raises:
            ArgumentError: if the image is neither, does not fit into memory, or a threshold is not between 0 and 1.
        """
        if isinstance(image, str | Path):
            return detect_objects(image, self, min_score=min_score, nms_iou=nms_iou, progress=False)
        return results.predict(self.detector, image, min_score, nms_iou)

    def export(self, path: str | Path, layout: str | None = None) -> Path:
        """Write the detector in the format that the suffix names, for other programs; gives its path.

        Args:
            path: `.onnx` for GeoDeep, Deepness, Ultralytics and onnxruntime, `.dlpk` for ArcGIS (experimental), `.pt2`
                for PyTorch, `.json` for a STAC item that describes a `.pt2` file, which is written beside it.
            layout: how an `.onnx` file answers, by the `det_type` of Deepness: "YOLO_v9" (the default, which all of
                them read), "YOLO_Ultralytics" or "YOLO_v5_or_v7_default"; "stac-mlm" is the only one of `.json`.

        Raises:
            OutputError: if the suffix is another, or the file cannot be written.
            ArgumentError: if the format has no such layout.
            MissingPackage: for `.onnx` without the extra `onnx`.
        """
        return export(self.detector, path, layout)

    def save(self, path: str | Path) -> Path:
        """Write the detector to one `.safetensors` file, with all that inference needs; gives its path."""
        return self.detector.save(path)

    def load(self, path: str | Path) -> None:
        """Take the weights of a saved detector of the same architecture and classes.

        Raises:
            ModelError: if the file is not a detector, or does not fit; the model stays as it was.
        """
        saved = load_detector(path, device="cpu")
        refuse_others(saved, self._detector, str(path))
        with held_back():
            told = fill(self._detector, saved, str(path))
            self._learner = self._state = self._history = None
        for sentence in told:
            warn(sentence)
