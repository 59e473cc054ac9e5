"""Training: `RetinaNet(data)` with fastai under it."""

import warnings

import pandas as pd

# Importing fastai widens all tables of pandas, and uses what torch has deprecated.
with warnings.catch_warnings(), pd.option_context("display.max_colwidth", pd.get_option("display.max_colwidth")):
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
    from geodetect.learner.retinanet import RetinaNet

__all__ = ["RetinaNet"]
