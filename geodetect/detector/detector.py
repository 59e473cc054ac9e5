"""The detector: pixels in, boxes out.

Shapes: B chips, C bands, H W pixels, K classes.
"""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from geodetect.addresses import expand_user
from geodetect.boxes import Boxes
from geodetect.detector import file
from geodetect.errors import ArgumentError, ModelError, is_share, warn
from geodetect.facts import html_table, join_values, text_of
from geodetect.metadata import CANDIDATE_MIN_SCORE, NMS_IOU, HasMetadata, Metadata, Scores
from geodetect.network import precision as precisions
from geodetect.network.batching import choose_by_trial, choose_on_cpu
from geodetect.network.coding import select_candidates, suppress
from geodetect.network.devices import find_device
from geodetect.network.inference import Pending, empty, eval_mode, freeze, prepare_images, send
from geodetect.network.quantized import QuantizedNetwork, check_installed
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization

_N_TO_CALIBRATE = 16  # chips


@dataclass(frozen=True, eq=False)
class Launched:
    """Handle of a batch in progress, from `Detector.launch` for `Detector.collect`.

    Args:
        candidates: boxes before suppression, on their way from the device.
        nms_iou: for the suppression.
    """

    candidates: Pending
    nms_iou: float


class Detector(HasMetadata):
    """A trained network with its metadata.

    Args:
        network: gives logits and deltas.
        metadata: its architecture is replaced by the network's.
        device: where to run; None leaves the network where it is.
        precision: "auto" (bf16, else float16, where it is native and, in `frozen`, faster), "float32", "bf16",
            "float16", or "int8", which has to be calibrated first.

    Raises:
        ArgumentError: if the two do not fit each other, or there is no such device or precision.
    """

    _metadata: Metadata

    def __init__(
        self,
        network: Network,
        metadata: Metadata,
        *,
        device: str | torch.device | None = None,
        precision: str = "auto",
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)
        self.running: Network | QuantizedNetwork = self.network
        self.metadata, self.precision = metadata, precision
        if (network.n_classes, network.n_bands) != (len(metadata.classes), len(metadata.bands)):
            raise ArgumentError(
                f"the network must have a class for each name and take all bands; got {network.n_classes} classes, "
                f"names {list(metadata.classes)}, and {network.n_bands} bands, {metadata.bands}"
            )
        if device is not None:
            self.network.to(find_device(device))
        precisions.resolve(precision, self.device)

    @property
    def metadata(self) -> Metadata:
        """Classes, bands, chip size and all else that inference needs; replace it to change a part.

        Assigning metadata without a normalisation raises ArgumentError.
        """
        architecture = self.network.architecture  # its norms may have been changed
        if self._metadata.architecture != architecture:
            self._metadata = replace(self._metadata, architecture=architecture)
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Metadata) -> None:
        if metadata.normalization is None:
            raise ArgumentError("a detector needs the mean and deviation of its bands; the metadata has none")
        self._metadata = metadata

    @property
    def normalization(self) -> Normalization:
        """Per-band normalisation of pixel values."""
        assert self._metadata.normalization is not None
        return self._metadata.normalization

    @property
    def facts(self) -> dict[str, Any]:
        """Human-readable summary of the detector, as a dict."""
        return self.metadata.facts | ({} if self._is_trained else {"epochs": "none yet"})

    def __repr__(self) -> str:
        at = "" if self.pixel_size_m is None else f" of {self.pixel_size_m:g} m"
        told = text_of(self.metadata.summary) if self._is_trained else "untrained"
        oriented = "; oriented" if self.oriented else ""
        return (
            f"Detector({join_values(self.classes)}: {self.network.architecture.backbone}, {self.chip_size} px{at}, "
            f"bands {join_values(self.bands)}{oriented}{'; ' if told else ''}{told})"
        )

    def _repr_html_(self) -> str:
        return html_table("Detector", self.facts)

    @property
    def _is_trained(self) -> bool:
        return bool(self.metadata.summary.get("epochs")) or not self.network.class_head.gives_prior

    def warn_if_untrained(self) -> None:
        """Warn if the class head is as before training, so that scores are about 0.01 everywhere."""
        if not self._is_trained:
            warn("this model is untrained, so its detections are random; train it first")
        elif self.network.class_head.gives_prior:
            warn(
                "training has hardly changed this model, so its detections are random; train it at a higher rate, or "
                "with the one found by lr_find()"
            )

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.device

    def detect(
        self, pixels: np.ndarray | Tensor, *, min_score: Scores = CANDIDATE_MIN_SCORE, nms_iou: float = NMS_IOU
    ) -> list[Boxes]:
        """Return the detections on each chip, highest score first, in chip pixels and clipped to the chip.

        Oriented boxes are not clipped; those whose centre is outside the chip are dropped.

        Args:
            pixels: (B, C, H, W) as read from the raster, of any dtype; non-finite values count as the mean.
            min_score: minimum score, for all classes or by class (classes not named: 0.05).
            nms_iou: IoU above which the lower-scored of two boxes of a class is dropped.

        Returns:
            one `Boxes` per chip, empty where nothing was found; [] for no chips.

        Raises:
            ModelError: if the pixels have another number of bands than the network.
            ArgumentError: if a threshold is not between 0 and 1, or a class is unknown.
        """
        return self.collect(self.launch(pixels, min_score=min_score, nms_iou=nms_iou))

    def launch(
        self, pixels: np.ndarray | Tensor, *, min_score: Scores = CANDIDATE_MIN_SCORE, nms_iou: float = NMS_IOU
    ) -> Launched:
        """Start inference on a batch and return a handle for `collect`.

        A GPU works on it while the next batch is launched. Arguments and errors are those of `detect`.
        """
        if self.n_to_calibrate:
            raise ModelError(
                'precision="int8" has to be calibrated: run detect_objects, or frozen() and then calibrate(pixels)'
            )
        pixels = self._tensor(pixels)
        floors = send(torch.from_numpy(self.metadata.scores(min_score)).float(), self.device)
        if not is_share(nms_iou):
            raise ArgumentError(f"nms_iou must lie between 0 and 1; got {nms_iou!r}")
        if not len(pixels):
            return Launched(Pending(torch.zeros(0, 0, 6)), nms_iou)
        with torch.inference_mode(), eval_mode(self.running):
            images, shape = prepare_images(
                pixels, self.normalization.mean, self.normalization.std, self.device, min_size=self.metadata.min_size
            )
            with precisions.autocast(precisions.resolve(self.precision, self.device), self.device):
                logits, deltas = self.running(images)
            padded = images.shape[2], images.shape[3]
            found = select_candidates(
                logits,
                deltas,
                self.running.anchors(padded),
                shape,
                level_sizes=self.running.level_sizes(padded),
                min_score=floors,
            )
            if self.metadata.min_size is not None:
                x, y = pixels.shape[3] / shape[1], pixels.shape[2] / shape[0]
                found[..., :4] *= send(torch.tensor([x, y, x, y]), self.device)
            return Launched(Pending(found), nms_iou)

    def collect(self, launched: Launched) -> list[Boxes]:
        """Return the boxes of a launched batch; batches may be collected in any order, each once.

        Raises:
            ModelError: if the network gave NaN.
        """
        with torch.inference_mode():
            candidates = launched.candidates.wait()
            if candidates[..., -2].isnan().any():
                raise ModelError(
                    "the network gives NaN for these pixels; a fill value far from all others does that: declare it "
                    f'with nodata=; so does an overflow in float16: use precision="float32" (this is {self.precision})'
                )
            return suppress(candidates, launched.nms_iou)

    def frozen(self, precision: str | None = None, device: str | torch.device | None = None) -> Detector:
        """Return a copy optimised for inference; later training of this detector does not change it.

        Args:
            precision: "float32", "bf16", "float16" or "int8", for which `calibrate` comes next; None: this detector's
                own, "auto" by a short benchmark.
            device: where the copy runs; None: where this one does.

        Raises:
            ArgumentError: if there is no such precision or device.
        """
        fast = copy(self)
        if device is not None and find_device(device) != self.device:
            fast.network = deepcopy(self.network).to(find_device(device))
        fast.precision = precision or self.precision
        if fast.precision == "auto":
            fast.precision = precisions.choose(fast.device)
        if fast.precision == precisions.INT8:
            check_installed()
        fast.running = freeze(fast.network, precisions.resolve(fast.precision, fast.device))
        return fast

    @property
    def n_to_calibrate(self) -> int:
        """Number of chips that `calibrate` should get before the detector runs; 0 if it need not be calibrated."""
        is_calibrated = self.precision != precisions.INT8 or isinstance(self.running, QuantizedNetwork)
        return 0 if is_calibrated else _N_TO_CALIBRATE

    def calibrate(self, pixels: np.ndarray | Tensor) -> None:
        """Let the detector compute in 8-bit integers, in the ranges of its maps on these chips; takes 10 to 30 s.

        Args:
            pixels: (B, C, H, W) as read from the raster, at least one chip; like those that it will be run on, and as
                large.

        Raises:
            ArgumentError: if there is no chip.
            ModelError: if the pixels have another number of bands than the network.
            MissingPackage: if OpenVINO or NNCF is not installed.
        """
        mean, std = self.normalization.mean, self.normalization.std
        images, _ = prepare_images(self._tensor(pixels), mean, std, self.device, min_size=self.metadata.min_size)
        self.running = QuantizedNetwork(self.network, images)

    def suited_batch_size(self, chip_size: int) -> int:
        """Return a suitable batch size for this device, on a GPU measured in a short benchmark.

        Args:
            chip_size: side of the chips in pixels.
        """
        precision = precisions.resolve(self.precision, self.device)
        if self.device.type == "cpu":
            return choose_on_cpu(max(chip_size, self.metadata.min_size or 0), precision)
        return choose_by_trial(lambda n: self.detect(np.zeros((n, len(self.bands), chip_size, chip_size), np.uint8)))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Return an uninitialised array for pixels, in pinned memory if the network is on a CUDA device."""
        return empty(shape, dtype, self.device)

    def _tensor(self, pixels: np.ndarray | Tensor) -> Num[Tensor, "B C H W"]:
        """Return the pixels as a tensor on their own device; raise if their shape does not fit."""
        if isinstance(pixels, np.ndarray):
            native = pixels.dtype.newbyteorder("=")
            pixels = torch.from_numpy(np.require(pixels, native, ["C", "W"]))  # a copy only where torch needs one
        if not isinstance(pixels, Tensor):
            raise ArgumentError(f"pixels must be an array or tensor (B, C, H, W); got {type(pixels).__name__}")
        if pixels.ndim != 4 or 0 in pixels.shape[2:]:  # noqa: PLR2004
            raise ArgumentError(f"pixels must be (B, C, H, W) with H and W above 0; got shape {tuple(pixels.shape)}")
        if pixels.shape[1] != len(self.bands):
            remedy = "give as many, for example those of an array (C, H, W) by pixels[[0, 1, 2]]"
            if pixels.shape[3] < min(pixels.shape[1:3]):
                remedy = "the bands seem to come last, and np.moveaxis(pixels, -1, -3) puts them first, as (C, H, W)"
            raise ModelError(
                f"the model takes {len(self.bands)} bands {self.bands}; got pixels of {pixels.shape[1]}; {remedy}"
            )
        return pixels

    def save(self, path: str | Path) -> Path:
        """Save the detector to a single file and return its path.

        Weights are stored as safetensors, the rest as JSON in their metadata; the file is written atomically.

        Raises:
            OutputError: if the suffix is not `.safetensors` or the file cannot be written there.
            ModelError: if the weights are not finite.
        """
        self.warn_if_untrained()
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        file.check_finite(weights, "the network")
        return file.write(Path(expand_user(path)), weights, self.metadata)
