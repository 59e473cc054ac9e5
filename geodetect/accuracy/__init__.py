"""Accuracy of detections: features compared with features, on the map."""

from geodetect.accuracy.compute import compute_accuracy
from geodetect.accuracy.result import Accuracy

__all__ = ["Accuracy", "compute_accuracy"]
