"""From rasters and labels to chips: cutting, splitting, batching, folders on disk."""

from geodetect.chips.chip import Chip, Chips
from geodetect.chips.data import DetectionData
from geodetect.chips.export import export_training_data
from geodetect.chips.prepare import prepare_data

__all__ = ["Chip", "Chips", "DetectionData", "export_training_data", "prepare_data"]
