"""Training: `RetinaNet(data)` with fastai under it."""

from geodetect.learner.retinanet import RetinaNet

__all__ = ["RetinaNet"]
