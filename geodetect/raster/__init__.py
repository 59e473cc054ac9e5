"""Rasters: windowed reading in threads, and writing of chips.

The rest of the package uses the protocol `Reader`; `RasterReader` reads files, one or many as one scene.
"""

from geodetect.raster.header import Scene
from geodetect.raster.mosaic import open_scene, open_scenes
from geodetect.raster.opening import Rasters, list_files
from geodetect.raster.orientation import UPRIGHT, TurnedReader, describe_orientation, upright_shape
from geodetect.raster.pool import ReaderPool
from geodetect.raster.reader import MaskedReader, RasterReader, Reader
from geodetect.raster.validity import mostly_valid, mostly_valid_in
from geodetect.raster.writer import CHIP_FORMATS, check_chip_format, write_chip

__all__ = [
    "CHIP_FORMATS",
    "UPRIGHT",
    "MaskedReader",
    "RasterReader",
    "Rasters",
    "Reader",
    "ReaderPool",
    "Scene",
    "TurnedReader",
    "check_chip_format",
    "describe_orientation",
    "list_files",
    "mostly_valid",
    "mostly_valid_in",
    "open_scene",
    "open_scenes",
    "upright_shape",
    "write_chip",
]
