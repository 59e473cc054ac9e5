"""Rasters: windowed reading that is safe in threads, and chips out.

`Reader` is all that the rest of the package knows of rasters; `RasterReader` reads files.
"""

from geodetect.raster.reader import MaskedReader, RasterReader, Reader
from geodetect.raster.writer import CHIP_FORMATS, check_chip_format, write_chip

__all__ = ["CHIP_FORMATS", "MaskedReader", "RasterReader", "Reader", "check_chip_format", "write_chip"]
