"""The detector: a network and all that it takes to run it; what is saved, shipped and run."""

from geodetect.detector.detector import Detector
from geodetect.detector.loading import load_detector

__all__ = ["Detector", "load_detector"]
