"""Rasters: windowed reading that is safe in threads, and small GeoTIFFs out.

`Reader` is all that the rest of the package knows of rasters; `RasterReader` reads files.
"""

from geodetect.raster.reader import MaskedReader, RasterReader, Reader
from geodetect.raster.writer import write_chip

__all__ = ["MaskedReader", "RasterReader", "Reader", "write_chip"]
