"""Check, on a small sample, that a scene's pixel values match those of the training data."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np

from geodetect.errors import RasterError, warn
from geodetect.grid import Window
from geodetect.normalization import Sample, ValueRange
from geodetect.raster import Reader
from geodetect.scene.plan import Plan

_N_PLACES = 16  # sampled in a scene
_N_ROWS = 4  # of windows that they are in
_N_PIXELS = 4096  # in each place
_N_THREADS = 4


def check_value_range(reader: Reader, detector: Any, plan: Plan) -> None:
    """Warn if a scene's values differ from those of the training data, or seem to include undeclared no-data.

    Read errors are ignored here: the run itself raises them and says where.
    """
    name, places = reader.grid.name, _places(plan)
    try:
        with ThreadPoolExecutor(_N_THREADS, thread_name_prefix="geodetect-values") as pool:
            sample = Sample(pool.map(reader.read, places))
    except RasterError:
        return
    warn_of_value_range(sample, detector, name)


def warn_of_value_range(sample: Sample, detector: Any, name: str) -> None:
    """Warn of values in other units than those of the training data, and of undeclared no-data.

    Args:
        sample: of the pixels that are passed to the model.
        detector: any; units can be compared only if its `normalization` has the value range of training.
        name: of the raster, for messages.
    """
    if undeclared := sample.describe_fills(f"the pixels of {name}"):
        warn(undeclared)
    found = sample.value_range()
    trained: ValueRange | None = getattr(getattr(detector, "normalization", None), "value_range", None)
    if found is not None and trained is not None and found.are_unlike(trained):
        warn(
            f"{name} holds {found}, but the model was trained on {trained}, and finds little in other units; convert "
            "the raster to those of the training data first (gdal_translate -ot -scale)"
        )


def _places(plan: Plan) -> list[Window]:
    """Return narrow strips of windows spread over the whole plan, alternately horizontal and vertical.

    Unlike squares, they cannot all miss a margin along an edge of the scene.
    """
    numbers = np.unique(np.linspace(0, plan.n_strips - 1, _N_ROWS).astype(int))
    chosen: list[Window] = []
    for number in numbers.tolist():
        windows = plan.of_strip(number)
        some = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _N_PLACES // len(numbers))).astype(int))
        chosen += [windows[i] for i in some]
    n_each = _N_PLACES // max(len(chosen), 1)
    strips = []
    for (i, window), j in product(enumerate(chosen), range(n_each)):
        width, height = window.width, window.height
        if (i + i // _N_ROWS + j) % 2 == 0:  # alternates down columns too
            height = min(height, math.ceil(_N_PIXELS / width))
        else:
            width = min(width, math.ceil(_N_PIXELS / height))
        share = (j + 0.5) / n_each
        x, y = window.x + int(share * (window.width - width)), window.y + int(share * (window.height - height))
        strips.append(Window(x, y, width, height))
    return strips
