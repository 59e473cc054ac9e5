"""Detection over whole scenes: overlapping windows, merged without visible seams."""

from geodetect.scene.detect import detect_objects
from geodetect.scene.models import DetectsPixels

__all__ = ["DetectsPixels", "detect_objects"]
