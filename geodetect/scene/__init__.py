"""Detection over whole scenes: overlapping windows, merged without visible seams."""

from geodetect.scene.detect import detect_objects
from geodetect.scene.models import DetectsPixels
from geodetect.scene.options import DetectOptions

__all__ = ["DetectOptions", "DetectsPixels", "detect_objects"]
