"""What GDAL is told of many files: a small virtual raster for each and a tile index of all, or bands put together.

Formats: https://gdal.org/drivers/raster/vrt.html and https://gdal.org/drivers/raster/gti.html.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
import pyogrio.raw
import shapely
from affine import Affine
from rasterio.vrt import WarpedVRT

from geodetect.grid import Grid
from geodetect.raster.layers import BandName
from geodetect.raster.masks import ANY
from geodetect.raster.opening import Location

if TYPE_CHECKING:
    from geodetect.raster.header import Header

# numpy's names of pixel types, and GDAL's; of other types a scene of many files cannot be.
TYPES = {"uint8": "Byte", "int8": "Int8"} | {
    f"{kind.lower()}{n}": f"{kind}{n}"
    for kind, sizes in (("UInt", (16, 32, 64)), ("Int", (16, 32, 64)), ("Float", (32, 64)))
    for n in sizes
}
_HAIR = 1e-3  # px; coordinates are rounded by less


def index(files: Sequence[Header], grid: Grid, outlines: np.ndarray, *, upright: bool) -> bytes:
    """A GeoPackage with a feature for each file: how GDAL opens it, and where it lies.

    Args:
        files: in their order; later ones lie on top.
        grid: the pixels of the whole.
        outlines: (N,) polygons of the files in pixels of `grid`.
        upright: whether north is up. GDAL's index knows no other files; those are laid out in pixels, y up.
    """
    # Of files side by side the roundings of coordinates overlap by a billionth of a pixel, and of a block that meets
    # two files by no more GDAL's index gives neither.
    outlines = shapely.buffer(outlines, -_HAIR, join_style="mitre")
    if upright:
        outlines = shapely.transform(outlines, grid.to_map)
    else:
        outlines = shapely.transform(outlines, lambda xy: xy * [1, -1])
    masked = "MaskBand" in _emptiness(files)
    target = io.BytesIO()
    with warnings.catch_warnings():
        # An index in pixels has no CRS, and needs none.
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        pyogrio.raw.write(
            target,
            geometry=shapely.to_wkb(outlines),
            field_data=[
                np.array([_virtual(file, None if upright else grid, masked=masked) for file in files], object),
                np.arange(len(files)),
            ],
            fields=["location", "place"],
            geometry_type="Polygon",
            crs=_wkt(grid) if upright else None,
            driver="GPKG",
            layer="files",
        )
    return target.getvalue()


def describe(files: Sequence[Header], grid: Grid, *, upright: bool, resampled: bool) -> str:
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
    return _element("GDALTileIndexDataset", told + _bands(files[0], kind) + levels)


def stacked(bands: Sequence[tuple[str, Header, int]], grid: Grid) -> Location:
    """Return the virtual raster of bands from several files.

    Pixels of a file that is coarser than `grid` are interpolated.

    Args:
        bands: the name of each, its file, and its number in that.
        grid: the pixels of the whole; the files have its CRS and directions.
    """
    height, width = grid.shape
    told = [
        _band(number, TYPES[file.layers.stored.name], _stacked_band(name, file, band, grid))
        for number, (name, file, band) in enumerate(bands, 1)
    ]
    place = "" if grid.crs is None else _element("SRS", escape(_wkt(grid) or ""))
    assert grid.transform is not None
    place += _element("GeoTransform", ", ".join(repr(float(value)) for value in grid.transform.to_gdal()))
    if any(_has_mask(file) for _, file, _ in bands):
        told.append(_element("MaskBand", _masks(bands, grid)))
    xml = f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{place}{"".join(told)}</VRTDataset>'
    return Location(xml, is_virtual=True, is_remote=any(file.location.is_remote for _, file, _ in bands))


def sources_of(dataset: Any) -> np.ndarray | None:
    """Outlines (N,) of the sources of a virtual raster, in its pixels; None where they cover it, or of other rasters.

    Virtual rasters that GDAL warps or computes do not tell what they cover.
    """
    if dataset.driver != "VRT" or isinstance(dataset, WarpedVRT):
        return None
    described = ElementTree.fromstring(dataset.tags(ns="xml:VRT")["xml:VRT"])
    bands = [described, *described.iter("VRTRasterBand")]
    sources = [each for band in bands for each in band if each.tag.endswith("Source")]
    places = {tuple(place.attrib.items()): place.attrib for each in sources for place in each.iterfind("DstRect")}
    if any("subClass" in band.attrib for band in bands) or any(each.find("DstRect") is None for each in sources):
        return None
    x, y, width, height = (
        np.array([float(place[name]) for place in places.values()]) for name in ("xOff", "yOff", "xSize", "ySize")
    )
    outlines = shapely.box(x, y, x + width, y + height)
    whole = shapely.box(0, 0, dataset.width, dataset.height)
    return None if shapely.covers(shapely.union_all(outlines), whole) else outlines


def _masks(bands: Sequence[tuple[str, Header, int]], grid: Grid) -> str:
    """The band that is full where all masks of the bands' files are, and all bands that have a value for no data.

    As soon as there is a mask GDAL looks at no such value itself. Products of masks are cut off at 255.
    """
    masks = {(file.location.text, file.layers.alpha or f"mask,{band}"): file for _, file, band in bands}
    sources = [_mask_source(file, mask, grid) for (_, mask), file in masks.items()]
    return _combined("mul", sources)


def _combined(function: str, masks: Sequence[str]) -> str:
    """A mask that is made of several by one of GDAL's pixel functions; it is computed in floats and cut off at 255."""
    if len(masks) == 1:
        return _band(1, "Byte", masks[0])
    told = _element("PixelFunctionType", function) + _element("SourceTransferType", "Float32") + "".join(masks)
    return f'<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">{told}</VRTRasterBand>'


def _stacked_band(name: str, file: Header, band: int, grid: Grid) -> str:
    kind = TYPES[file.layers.stored.name]
    nodata = _nodata(file.nodata[band - 1])
    scales = "" if file.layers.scaled is None else _scale(*file.layers.scaled[band - 1])
    return _element("Description", escape(name)) + nodata + scales + _source(file, kind, band, grid)


def _extent(placed: Grid | None, shape: tuple[int, int]) -> dict[str, str]:
    """Pixel size and bounds, in pixels with y up where nothing is placed."""
    height, width = shape
    x, y, step_x, step_y = 0.0, 0.0, 1.0, 1.0
    if placed is not None and placed.transform is not None:
        x, y, step_x, step_y = placed.transform.c, placed.transform.f, placed.transform.a, -placed.transform.e
    # GDAL counts every pixel that is begun, by however little.
    low_y, high_x = y - (height - _HAIR) * step_y, x + (width - _HAIR) * step_x
    numbers = {"ResX": step_x, "ResY": step_y, "MinX": x, "MinY": low_y, "MaxX": high_x, "MaxY": y}
    return {name: repr(float(value)) for name, value in numbers.items()}


def _emptiness(files: Sequence[Header]) -> dict[str, str]:
    """What says that there is nothing between files: the value that all of them have for it, or a mask."""
    values = {repr(value) for file in files for value in _values(file)}
    masked = any(_has_mask(file) or _clear(file) for file in files)
    if len(values) == 1 and values != {"None"} and not masked:
        return {"NoData": values.pop()}
    return {"MaskBand": "true"}


def _values(file: Header) -> tuple[float | None, ...]:
    """The values that stand for no data in the bands of a file as GDAL is told it; None where there is none."""
    return (None,) * 3 if file.layers.palette is not None else tuple(file.nodata[band - 1] for band in file.layers.data)


def _bands(file: Header, kind: str) -> str:
    """What each band is called, and its scale and offset."""
    layers = file.layers
    return "".join(
        f'<Band band="{i}" dataType="{kind}">{_element("Description", escape(layers.names[band - 1].own))}'
        f"{_element('ColorInterp', _colour_of(layers.names[band - 1]))}"
        f"{'' if layers.scaled is None else _scale(*layers.scaled[band - 1])}</Band>"
        for i, band in enumerate(layers.data, 1)
    )


def _colour_of(band: BandName) -> str:
    """What GDAL is told of the band's colour; bands of a mosaic are data, whatever they are tagged as."""
    return "undefined" if band.colour in ("alpha", "palette") else band.colour


def _scale(scale: float, offset: float) -> str:
    return f"<Offset>{float(offset)!r}</Offset><Scale>{float(scale)!r}</Scale>"


def _virtual(file: Header, pixels: Grid | None, *, masked: bool) -> str:
    """A file as GDAL's XML of a virtual raster.

    Args:
        file: one of many.
        pixels: lay it out in these, where they are given.
        masked: say what is valid in a mask, not by values alone.
    """
    kind = TYPES[file.layers.stored.name]
    if file.layers.palette is not None:
        bands = [_band(i, kind, _colour(file, i)) for i in (1, 2, 3)]
    else:
        sources = [(_nodata(file.nodata[band - 1]) + _source(file, kind, band)) for band in file.layers.data]
        bands = [_band(i, kind, source) for i, source in enumerate(sources, 1)]
    place = _element("SRS", escape(_wkt(file.grid) or "")) if pixels is None and file.grid.crs else ""
    place += _element("GeoTransform", ", ".join(repr(float(value)) for value in _place(file, pixels).to_gdal()))
    mask = _mask_of(file, _dataset(file, "".join(bands))) if masked else ""
    return _dataset(file, place + "".join(bands) + (mask and _element("MaskBand", mask)))


def _dataset(file: Header, content: str) -> str:
    height, width = file.grid.shape
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{content}</VRTDataset>'


def _mask_of(file: Header, bands: str) -> str:
    """The mask of a file, which says what `Layers` would say of it; empty where nothing does.

    Args:
        file: alone, or one of many.
        bands: GDAL's XML of its data, with their values for no data. Of these the tile index alone heeds at most that
            of the first band, and none in floats.
    """
    if clear := _clear(file):
        return _band(1, "Byte", _indices(file, f"<LUT>{clear}</LUT>"))
    if _has_mask(file):
        return _band(1, "Byte", _mask_source(file, file.layers.alpha or "mask,1"))
    values = _values(file)
    if set(values) == {None}:
        return ""
    name = f'<SourceFilename relativeToVRT="0">{escape(bands)}</SourceFilename>'
    masks = [
        _element("SimpleSource", name + _element("SourceBand", f"mask,{band}")) for band in range(1, len(values) + 1)
    ]
    return _combined("sum" if file.layers.is_colour(*values) else "mul", masks)


def _place(file: Header, pixels: Grid | None) -> Affine:
    """The transform that GDAL is told."""
    transform = file.grid.transform
    assert transform is not None
    if pixels is None:
        return transform
    x, y = pixels.to_pixel(np.array([[transform.c, transform.f]]))[0]
    return Affine(1, 0, round(x), 0, -1, -round(y))


def _has_mask(file: Header) -> bool:
    """Whether a band or a mask of the file says what is valid."""
    return file.layers.alpha is not None or file.layers.mask is not None


def _clear(file: Header) -> str:
    """A table of 0 and 255 for the numbers of a palette, some of which are transparent or no data; empty otherwise."""
    if file.layers.palette is None:
        return ""
    shown = file.layers.palette[:, 3] > 0
    numbers = np.arange(len(shown))
    shown &= ~np.isin(numbers, [value for value in (file.nodata[0], file.layers.undeclared) if value is not None])
    return "" if shown.all() else ",".join(f"{i}:{255 * int(each)}" for i, each in zip(numbers, shown, strict=True))


def _mask_source(file: Header, mask: int | str, grid: Grid | None = None) -> str:
    """An alpha band, or "mask,1", of the file as 0 and 255; where it lies in `grid`."""
    is_alpha = mask == file.layers.alpha
    least = file.layers.least if is_alpha else file.layers.mask or ANY
    table = _element("LUT", f"{math.nextafter(least, 0)!r}:0,{least!r}:255")
    kind = TYPES[file.layers.stored.name] if is_alpha else "Byte"
    return _source(file, kind, mask, grid, mixed=False, table=table)


def _source(
    file: Header, kind: str, band: int | str, grid: Grid | None = None, *, mixed: bool = True, table: str = ""
) -> str:
    """A band, or "mask,1", of the file, told with its size so that GDAL need not open it yet; where it lies in `grid`.

    Where it is stretched neighbouring values are `mixed`, or, as a mask wants it, not. A `table` maps values to others.
    """
    (height, width), (block_height, block_width) = file.grid.shape, file.block
    size = f'RasterXSize="{width}" RasterYSize="{height}" DataType="{kind}"'
    blocks = f'BlockXSize="{block_width}" BlockYSize="{block_height}"'
    told = f"{_named(file)}{_element('SourceBand', band)}<SourceProperties {size} {blocks}/>"
    source = "ComplexSource" if table else "SimpleSource"
    if grid is None:
        return _element(source, told + table)
    assert grid.transform is not None
    assert file.grid.transform is not None
    place = (~grid.transform) @ file.grid.transform
    told += f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
    told += f'<DstRect xOff="{place.c!r}" yOff="{place.f!r}" xSize="{width * place.a!r}" ySize="{height * place.e!r}"/>'
    how = "bilinear" if mixed and file.grid.shape != grid.shape else "nearest"
    return f'<{source} resampling="{how}">{told}{table}</{source}>'


def _colour(file: Header, number: int) -> str:
    """Red, green or blue of a file of indices."""
    return _indices(file, _element("ColorTableComponent", number))


def _indices(file: Header, meaning: str) -> str:
    """What the indices of a file stand for; opened at once, since GDAL has to see the palette."""
    return _element("ComplexSource", _named(file) + _element("SourceBand", 1) + meaning)


def _nodata(value: float | None) -> str:
    return "" if value is None else _element("NoDataValue", repr(value))


def _named(file: Header) -> str:
    return f'<SourceFilename relativeToVRT="0">{escape(file.location.text)}</SourceFilename>'


def _band(number: int, kind: str, content: str) -> str:
    return f'<VRTRasterBand dataType="{kind}" band="{number}">{content}</VRTRasterBand>'


def _element(name: str, content: object) -> str:
    return f"<{name}>{content}</{name}>"


def _wkt(grid: Grid) -> str | None:
    return None if grid.crs is None else grid.crs.to_wkt()
