"""Detection over whole scenes: window by window, sewn together without seams."""

from geodetect.scene.detect import detect_objects
from geodetect.scene.models import DetectsPixels

__all__ = ["DetectsPixels", "detect_objects"]
