"""The detector: a network and all that is needed to run it. It is what is saved and deployed."""

from geodetect.detector.detector import Detector
from geodetect.detector.loading import read_detector

__all__ = ["Detector", "read_detector"]
