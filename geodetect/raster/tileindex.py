"""What GDAL is told of many files: a small virtual raster for each, and a tile index of all.

Formats: https://gdal.org/drivers/raster/vrt.html and https://gdal.org/drivers/raster/gti.html.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
import pyogrio.raw
import shapely
from affine import Affine

from geodetect.grid import Grid
from geodetect.raster.layers import Layers

_CAPITALS = {"uint": "UInt", "int": "Int", "float": "Float"}
_SIZES = {"uint": (16, 32, 64), "int": (8, 16, 32, 64), "float": (32, 64)}
# numpy's names of numbers, and GDAL's.
TYPES = {"uint8": "Byte"} | {f"{kind}{n}": f"{_CAPITALS[kind]}{n}" for kind, sizes in _SIZES.items() for n in sizes}


@dataclass(frozen=True, eq=False)
class File:
    """What is known of one of many files before any pixel is read.

    Args:
        path: what GDAL opens.
        name: what messages call it.
        grid: where it lies.
        layers: its bands; an alpha band that is a mask among them.
        nodata: the value that stands for no data; None when there is none.
        tagged: the band that is tagged as alpha, mask or not; None when there is none.
        factors: by how much its overviews are coarser.
        block: (height, width) of its blocks.
    """

    path: str
    name: str
    grid: Grid
    layers: Layers
    nodata: float | None
    tagged: int | None
    factors: tuple[int, ...]
    block: tuple[int, int]

    @property
    def n_bands(self) -> int:
        """Number of bands that are data."""
        return len(self.layers.data)


def index(files: Sequence[File], grid: Grid, outlines: np.ndarray, *, upright: bool) -> bytes:
    """A GeoPackage with a feature for each file: how GDAL opens it, and where it lies.

    Args:
        files: in their order; later ones lie on top.
        grid: the pixels of the whole.
        outlines: (N,) polygons of the files in pixels of `grid`.
        upright: whether north is up. GDAL's index knows no other files; those are laid out in pixels, y up.
    """
    if upright:
        outlines = shapely.transform(outlines, grid.to_map)
    else:
        outlines = shapely.transform(outlines, lambda xy: xy * [1, -1])
    target = io.BytesIO()
    with warnings.catch_warnings():
        # An index in pixels has no CRS, and needs none.
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        pyogrio.raw.write(
            target,
            geometry=shapely.to_wkb(outlines),
            field_data=[
                np.array([_virtual(file, None if upright else grid) for file in files], object),
                np.arange(len(files)),
            ],
            fields=["location", "place"],
            geometry_type="Polygon",
            crs=_wkt(grid) if upright else None,
            driver="GPKG",
            layer="files",
        )
    return target.getvalue()


def describe(files: Sequence[File], grid: Grid, *, upright: bool, resampled: bool) -> str:
    """GDAL's XML of the tile index, with `{index}` for the name of its GeoPackage.

    Args:
        files: those of the index.
        grid: the pixels of the whole.
        upright: whether north is up.
        resampled: whether pixels of some files lie between those of `grid`.
    """
    kind = TYPES[np.result_type(*[file.layers.stored for file in files]).name]
    parts = {
        "IndexDataset": "{index}",
        "IndexLayer": "files",
        "LocationField": "location",
        "SortField": "place",
        **_extent(grid if upright else None, grid.shape),
        "BandCount": str(files[0].n_bands),
        "DataType": kind,
        "Resampling": "Bilinear" if resampled else "Nearest",
        **_emptiness(files),
    }
    factors = sorted(set.intersection(*(set(file.factors) for file in files)))
    levels = "".join(_element("Overview", _element("Factor", factor)) for factor in factors)
    told = "".join(_element(name, value) for name, value in parts.items())
    return _element("GDALTileIndexDataset", told + _scales(files[0], kind) + levels)


def _extent(placed: Grid | None, shape: tuple[int, int]) -> dict[str, str]:
    """Pixel size and bounds, in pixels with y up where nothing is placed."""
    height, width = shape
    x, y, step_x, step_y = 0.0, 0.0, 1.0, 1.0
    if placed is not None and placed.transform is not None:
        x, y, step_x, step_y = placed.transform.c, placed.transform.f, placed.transform.a, -placed.transform.e
    low_y, high_x = y - height * step_y, x + width * step_x
    numbers = {"ResX": step_x, "ResY": step_y, "MinX": x, "MinY": low_y, "MaxX": high_x, "MaxY": y}
    return {name: repr(float(value)) for name, value in numbers.items()}


def _emptiness(files: Sequence[File]) -> dict[str, str]:
    """What says that there is nothing between files: the value that all of them have for it, or a mask."""
    values = {repr(file.nodata) for file in files}
    masked = any(file.layers.alpha is not None or file.layers.mask for file in files)
    if len(values) == 1 and files[0].nodata is not None and not masked:
        return {"NoData": repr(files[0].nodata)}
    return {"MaskBand": "true"}


def _scales(file: File, kind: str) -> str:
    """Scale and offset of each band."""
    if file.layers.scaled is None:
        return ""
    values = file.layers.scaled[np.array(file.layers.data) - 1]
    return "".join(
        f'<Band band="{i}" dataType="{kind}"><Offset>{float(offset)!r}</Offset><Scale>{float(scale)!r}</Scale></Band>'
        for i, (scale, offset) in enumerate(values, 1)
    )


def _virtual(file: File, pixels: Grid | None) -> str:
    """A file as GDAL's XML of a virtual raster; laid out in `pixels` where those are given."""
    height, width = file.grid.shape
    kind = TYPES[file.layers.stored.name]
    if file.layers.palette is not None:
        bands = [_band(i, kind, _colour(file, i)) for i in (1, 2, 3)]
    else:
        nodata = "" if file.nodata is None else _element("NoDataValue", repr(file.nodata))
        bands = [_band(i, kind, nodata + _source(file, kind, band)) for i, band in enumerate(file.layers.data, 1)]
    mask = file.layers.alpha or ("mask,1" if file.layers.mask else None)
    bands += [_element("MaskBand", _band(1, "Byte", _source(file, kind, mask)))] if mask else []
    place = _element("SRS", escape(_wkt(file.grid) or "")) if pixels is None and file.grid.crs else ""
    place += _element("GeoTransform", ", ".join(repr(float(value)) for value in _place(file, pixels).to_gdal()))
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{place}{"".join(bands)}</VRTDataset>'


def _place(file: File, pixels: Grid | None) -> Affine:
    """The transform that GDAL is told."""
    transform = file.grid.transform
    assert transform is not None
    if pixels is None:
        return transform
    x, y = pixels.to_pixel(np.array([[transform.c, transform.f]]))[0]
    return Affine(1, 0, round(x), 0, -1, -round(y))


def _source(file: File, kind: str, band: int | str) -> str:
    """A band, or "mask,1", of the file, told with its size so that GDAL need not open it yet."""
    (height, width), (block_height, block_width) = file.grid.shape, file.block
    size = f'RasterXSize="{width}" RasterYSize="{height}" DataType="{kind}"'
    blocks = f'BlockXSize="{block_width}" BlockYSize="{block_height}"'
    return _element("SimpleSource", f"{_named(file)}{_element('SourceBand', band)}<SourceProperties {size} {blocks}/>")


def _colour(file: File, number: int) -> str:
    """Red, green or blue of a file of indices; opened at once, since GDAL has to see the palette."""
    told = _element("SourceBand", 1) + _element("ColorTableComponent", number)
    return _element("ComplexSource", _named(file) + told)


def _named(file: File) -> str:
    return f'<SourceFilename relativeToVRT="0">{escape(file.path)}</SourceFilename>'


def _band(number: int, kind: str, content: str) -> str:
    return f'<VRTRasterBand dataType="{kind}" band="{number}">{content}</VRTRasterBand>'


def _element(name: str, content: object) -> str:
    return f"<{name}>{content}</{name}>"


def _wkt(grid: Grid) -> str | None:
    return None if grid.crs is None else grid.crs.to_wkt()
