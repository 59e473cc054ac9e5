"""The detector: a network and all that it takes to run it; what is saved, shipped and run."""

from geodetect.detector.detector import Detector
from geodetect.detector.loading import read_detector

__all__ = ["Detector", "read_detector"]
