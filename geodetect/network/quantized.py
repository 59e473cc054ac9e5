"""Networks in 8-bit integers on the CPU: quantised after training by NNCF, run by OpenVINO.

Shapes: B images, C bands, H W pixels, A anchors, K classes.
"""

from __future__ import annotations

import logging
import threading
import warnings
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import rich
import torch
from jaxtyping import Float
from torch import Tensor, nn

from geodetect.errors import ArgumentError, missing
from geodetect.network.retinanet import Network

_EXTRA, _PURPOSE = "int8", 'precision="int8"'
_QUANTIZING = threading.Lock()  # what is silenced meanwhile is the process's


class QuantizedNetwork(nn.Module):
    """A copy of a network that computes in 8-bit integers and has the same anchors, for images of one size.

    Weights are symmetric around zero; activations have the range that they have on the images, around its middle where
    they are not symmetric (NNCF's preset "mixed", which here loses less than its default).

    Args:
        network: on the CPU.
        images: (B, C, H, W) to calibrate on, standardised and padded.

    Raises:
        ArgumentError: if there is no image.
        MissingPackage: if OpenVINO or NNCF is not installed.
    """

    def __init__(self, network: Network, images: Float[Tensor, "B C H W"]) -> None:
        super().__init__()
        if not len(images):
            raise ArgumentError("at least one chip is needed to calibrate on; got none")
        self.anchors, self.level_sizes, self._shape = network.anchors, network.level_sizes, tuple(images.shape[1:])
        model = _quantize(network, images)
        from openvino import Core  # after it has been found to be installed

        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
        self._request = Core().compile_model(model, "CPU", options).create_infer_request()

    def forward(
        self, images: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B A K"], Float[Tensor, "B A _n_deltas"]]:
        """Return logits and deltas, computed image by image: a batch is no faster.

        Raises:
            ArgumentError: if the images are not as large as those of the calibration.
        """
        if images.shape[1:] != self._shape:
            got = tuple(images.shape[1:])
            raise ArgumentError(
                f"int8 was calibrated on images of (bands, height, width) {self._shape}; got {got}: calibrate on chips "
                "of the same size"
            )
        logits, deltas = zip(*(self._infer(image) for image in torch.split(images, 1)), strict=True)
        return torch.cat(logits), torch.cat(deltas)

    def _infer(self, image: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self._request.infer([image.contiguous().numpy()])
        return torch.from_numpy(outputs[0].copy()), torch.from_numpy(outputs[1].copy())


@torch.no_grad()
def _quantize(network: Network, images: Tensor) -> Any:
    """Return the network as a model of OpenVINO, quantised for images like these.

    NNCF does not print meanwhile: the standard output may be where a command writes its result.
    """
    check_installed()
    shown = [image.contiguous() for image in torch.split(images, 1)]
    console, compilers = rich.get_console(), logging.getLogger("torch.utils.cpp_extension")
    with _QUANTIZING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenVINO traces the network, of which torch warns
        logger_class, is_quiet, console.quiet = logging.getLoggerClass(), console.quiet, True
        compilers.addFilter(_drop)  # it is imported, and misses CUDA
        try:
            import nncf  # replaces the class of all loggers
            from openvino import convert_model

            logging.getLogger("nncf").setLevel(logging.ERROR)
            trace: Any = torch.jit.trace  # which has no types
            model = convert_model(trace(deepcopy(network).eval(), shown[0], check_trace=False))
            model.reshape(list(shown[0].shape))
            data = nncf.Dataset([image.numpy() for image in shown])
            return nncf.quantize(model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(shown))
        finally:
            compilers.removeFilter(_drop)
            console.quiet = is_quiet
            logging.setLoggerClass(logger_class)


def _drop(record: logging.LogRecord) -> bool:
    return False


def check_installed() -> None:
    """Raise if a package that int8 needs is not installed.

    Raises:
        MissingPackage: naming it and its extra.
    """
    for package in ("openvino", "nncf"):
        if find_spec(package) is None:
            raise missing(package, _EXTRA, _PURPOSE)
