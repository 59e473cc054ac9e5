"""From rasters and labels to chips: cutting, splitting, batching, folders on disk."""

from geodetect.chips.chip import Chip, Chips
from geodetect.chips.data import DetectionData, prepare_data
from geodetect.chips.export import export_training_data

__all__ = ["Chip", "Chips", "DetectionData", "export_training_data", "prepare_data"]
