"""Descriptions of virtual rasters for GDAL: one for each of many files, a tile index of all, or a stack of bands.

Formats: https://gdal.org/drivers/raster/vrt.html and https://gdal.org/drivers/raster/gti.html.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
import pyogrio.raw
import shapely
from affine import Affine
from rasterio.vrt import WarpedVRT

from geodetect.grid import Grid
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
# The path of a file in XML, or in XML that is escaped inside other; and the end of a path.
_FILENAME = re.compile(r'(relativeToVRT="0"(?:>|&(?:amp;)*gt;))(.*?)(?=<|&(?:amp;)*lt;)')
_NAME = re.compile(r"(?:[/\\]\.)*([/\\])([^/\\]*)$")
_HAIR = 1e-3  # px; coordinates are rounded by less


def write_index(files: Sequence[Header], grid: Grid, outlines: np.ndarray, *, upright: bool) -> bytes:
    """Return a GeoPackage with a feature for each file: its virtual raster, and where it lies.

    Args:
        files: in order; later ones lie on top.
        grid: of the whole.
        outlines: (N,) polygons of the files in pixels of `grid`.
        upright: whether north is up. GDAL's index takes no other files; those are laid out in pixels, y up.
    """
    # Rounding makes files side by side overlap by a billionth of a pixel, and GDAL reads neither in a block that
    # intersects two files by no more.
    outlines = shapely.buffer(outlines, -_HAIR, join_style="mitre")
    if upright:
        outlines = shapely.transform(outlines, grid.to_map)
    else:
        outlines = shapely.transform(outlines, lambda xy: xy * [1, -1])
    masked = "MaskBand" in _emptiness(files)
    described = [_describe_file(file, None if upright else grid, masked=masked) for file in files]
    crs = grid.crs.to_wkt() if upright and grid.crs else None
    return _write(shapely.to_wkb(outlines), described, np.arange(len(files)), crs)


def _write(geometry: np.ndarray, locations: Sequence[str], places: np.ndarray, crs: str | None) -> bytes:
    target = io.BytesIO()
    with warnings.catch_warnings():
        # An index in pixels has no CRS, and needs none.
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        pyogrio.raw.write(
            target,
            geometry=geometry,
            field_data=[np.array(locations, object), places],
            fields=["location", "place"],
            geometry_type="Polygon",
            crs=crs,
            driver="GPKG",
            layer="files",
        )
    return target.getvalue()


def respell_index(content: bytes, number: int) -> bytes:
    """Return a GeoPackage of `write_index` with other names of the same local files, such as `x/./scene.tif` for 1."""
    with TemporaryDirectory() as folder:  # from memory it would be read without a suffix, of which GDAL warns
        (path := Path(folder) / "index.gpkg").write_bytes(content)
        meta, _, geometry, (locations, places) = pyogrio.raw.read(path)

    def respell(found: re.Match[str]) -> str:
        """Return the file's name with `number` more steps to the folder that it is in already."""
        start, path = found.groups()
        if path.startswith("/vsi"):  # on a network such names may be other files
            return found[0]
        return start + _NAME.sub(lambda end: number * f"{end[1]}." + end[1] + end[2], path)

    return _write(geometry, [_FILENAME.sub(respell, text) for text in locations], places, meta["crs"])


def describe(files: Sequence[Header], grid: Grid, *, upright: bool, resampled: bool) -> str:
    """Return GDAL's XML of the tile index, with `{index}` for the name of its GeoPackage.

    Args:
        files: those of the index.
        grid: of the whole.
        upright: whether north is up.
        resampled: whether pixels of some files lie between those of `grid`.
    """
    kind = TYPES[np.result_type(*[file.layers.stored for file in files]).name]
    height, width = grid.shape
    x, y, step_x, step_y = 0.0, 0.0, 1.0, 1.0  # pixels with y up
    if upright:
        t = grid.known_transform
        x, y, step_x, step_y = t.c, t.f, t.a, -t.e
    # GDAL counts every pixel that is begun, by however little.
    low_y, high_x = y - (height - _HAIR) * step_y, x + (width - _HAIR) * step_x
    numbers = {"ResX": step_x, "ResY": step_y, "MinX": x, "MinY": low_y, "MaxX": high_x, "MaxY": y}
    extent = {name: repr(float(value)) for name, value in numbers.items()}
    parts = {
        "IndexDataset": "{index}",
        "IndexLayer": "files",
        "LocationField": "location",
        "SortField": "place",
        **extent,
        "BandCount": str(files[0].n_bands),
        "DataType": kind,
        "Resampling": "Bilinear" if resampled else "Nearest",
        **_emptiness(files),
    }
    factors = sorted(set.intersection(*(set(file.factors) for file in files)))
    layers = files[0].layers
    bands = []
    for i, band in enumerate(layers.data, 1):
        own, colour = layers.names[band - 1]
        tags = _element("Description", escape(own))
        # Bands of a mosaic are data, even if tagged otherwise.
        tags += _element("ColorInterp", "undefined" if colour in ("alpha", "palette") else colour)
        tags += "" if layers.scaled is None else _scale(*layers.scaled[band - 1])
        bands.append(f'<Band band="{i}" dataType="{kind}">{tags}</Band>')
    levels = [_element("Overview", _element("Factor", factor)) for factor in factors]
    content = [*(_element(name, value) for name, value in parts.items()), *bands, *levels]
    return _element("GDALTileIndexDataset", "".join(content))


def stack(bands: Sequence[tuple[str, Header, int]], grid: Grid) -> Location:
    """Return the virtual raster of bands from several files.

    Pixels of a file that is coarser than `grid` are interpolated.

    Args:
        bands: the name of each, its file, and its number in that.
        grid: the pixels of the whole; the files have its CRS and directions.
    """
    content = []
    if grid.crs is not None:
        content.append(_element("SRS", escape(grid.crs.to_wkt())))
    content.append(_transform(grid.known_transform))
    for number, (name, file, band) in enumerate(bands, 1):
        kind = TYPES[file.layers.stored.name]
        scales = "" if file.layers.scaled is None else _scale(*file.layers.scaled[band - 1])
        described = _element("Description", escape(name)) + _nodata(file.nodata[band - 1]) + scales
        content.append(_band(number, kind, described + _source(file, kind, band, grid)))
    if any(_has_mask(file) for _, file, _ in bands):
        # Valid where all files' masks are, and all bands with a no-data value, which GDAL ignores where there is a
        # mask. Products of masks are clipped to 255.
        masks = {(file.location.text, file.layers.alpha or f"mask,{band}"): file for _, file, band in bands}
        sources = [_mask_source(file, mask, grid) for (_, mask), file in masks.items()]
        content.append(_element("MaskBand", _combine("mul", sources)))
    return Location(
        _dataset(grid, "".join(content)),
        is_virtual=True,
        is_remote=any(file.location.is_remote for _, file, _ in bands),
    )


def outline_sources(dataset: Any) -> np.ndarray | None:
    """Return the outlines (N,) of a virtual raster's sources in its pixels; None if they cover it, or if unknown.

    Unknown is what GDAL warps or computes; other rasters have no sources.
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


def _combine(function: str, masks: Sequence[str]) -> str:
    """Return one mask of several by a pixel function of GDAL, which computes in floats and clips to 255."""
    if len(masks) == 1:
        return _band(1, "Byte", masks[0])
    content = _element("PixelFunctionType", function) + _element("SourceTransferType", "Float32") + "".join(masks)
    return f'<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">{content}</VRTRasterBand>'


def _emptiness(files: Sequence[Header]) -> dict[str, str]:
    """Return what marks the space between files: the no-data value that all of them share, or a mask."""
    values = {repr(value) for file in files for value in _values(file)}
    masked = any(_has_mask(file) or _opaque_colours(file) for file in files)
    if len(values) == 1 and values != {"None"} and not masked:
        return {"NoData": values.pop()}
    return {"MaskBand": "true"}


def _values(file: Header) -> tuple[float | None, ...]:
    """Return the no-data value of each band of a file's virtual raster; None where there is none."""
    return (None,) * 3 if file.layers.palette is not None else tuple(file.nodata[band - 1] for band in file.layers.data)


def _scale(scale: float, offset: float) -> str:
    return f"<Offset>{float(offset)!r}</Offset><Scale>{float(scale)!r}</Scale>"


def _describe_file(file: Header, pixels: Grid | None, *, masked: bool) -> str:
    """Return GDAL's XML of a file as a virtual raster.

    Args:
        file: one of many.
        pixels: lay it out in these, y up; None: on the map.
        masked: describe the valid pixels by a mask, not by no-data values alone.
    """
    kind, transform = TYPES[file.layers.stored.name], file.grid.known_transform
    if file.layers.palette is not None:
        sources = [_indices(file, _element("ColorTableComponent", number)) for number in (1, 2, 3)]
    else:
        sources = [_nodata(file.nodata[band - 1]) + _source(file, kind, band) for band in file.layers.data]
    bands = "".join(_band(i, kind, source) for i, source in enumerate(sources, 1))
    srs = ""
    if pixels is not None:
        x, y = pixels.to_pixel(file.grid.corners[:1])[0]
        transform = Affine(1, 0, round(x), 0, -1, -round(y))
    elif file.grid.crs is not None:
        srs = _element("SRS", escape(file.grid.crs.to_wkt()))
    mask = _describe_mask(file, _dataset(file.grid, bands)) if masked else ""
    return _dataset(file.grid, srs + _transform(transform) + bands + (mask and _element("MaskBand", mask)))


def _dataset(grid: Grid, content: str) -> str:
    height, width = grid.shape
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{content}</VRTDataset>'


def _describe_mask(file: Header, bands: str) -> str:
    """Return GDAL's XML of a file's mask, valid where `Layers` would say so; empty if all of it is.

    Args:
        file: one of many.
        bands: GDAL's XML of its bands with their no-data values, of which the tile index alone uses at most that of
            the first band, and none in floats.
    """
    if table := _opaque_colours(file):
        return _band(1, "Byte", _indices(file, _element("LUT", table)))
    if _has_mask(file):
        return _band(1, "Byte", _mask_source(file, file.layers.alpha or "mask,1"))
    values = _values(file)
    if set(values) == {None}:
        return ""
    name = f'<SourceFilename relativeToVRT="0">{escape(bands)}</SourceFilename>'
    masks = [
        _element("SimpleSource", name + _element("SourceBand", f"mask,{band}")) for band in range(1, len(values) + 1)
    ]
    return _combine("sum" if file.layers.is_colour(*values) else "mul", masks)


def _has_mask(file: Header) -> bool:
    """Return whether the file has an alpha band or a mask."""
    return file.layers.alpha is not None or file.layers.mask is not None


def _opaque_colours(file: Header) -> str:
    """Return a table of 0 and 255 for the palette if some colours are transparent or no data; empty otherwise."""
    if file.layers.palette is None:
        return ""
    shown = file.layers.palette[:, 3] > 0
    numbers = np.arange(len(shown))
    shown &= ~np.isin(numbers, [value for value in (file.nodata[0], file.layers.undeclared) if value is not None])
    return "" if shown.all() else ",".join(f"{i}:{255 * int(each)}" for i, each in zip(numbers, shown, strict=True))


def _mask_source(file: Header, mask: int | str, grid: Grid | None = None) -> str:
    """Return an alpha band, or "mask,1", of the file as 0 and 255; placed in `grid` if it is given."""
    is_alpha = mask == file.layers.alpha
    threshold = file.layers.alpha_threshold if is_alpha else file.layers.mask or ANY
    table = _element("LUT", f"{math.nextafter(threshold, 0)!r}:0,{threshold!r}:255")
    kind = TYPES[file.layers.stored.name] if is_alpha else "Byte"
    return _source(file, kind, mask, grid, mixed=False, table=table)


def _source(
    file: Header, kind: str, band: int | str, grid: Grid | None = None, *, mixed: bool = True, table: str = ""
) -> str:
    """Return a band, or "mask,1", of the file, with its size so that GDAL need not open it yet; placed in `grid`.

    Where it is enlarged, values are interpolated if `mixed`; masks are not. A `table` maps values to others.
    """
    (height, width), (block_height, block_width) = file.grid.shape, file.block
    size = f'RasterXSize="{width}" RasterYSize="{height}" DataType="{kind}"'
    blocks = f'BlockXSize="{block_width}" BlockYSize="{block_height}"'
    content = f"{_filename(file)}{_element('SourceBand', band)}<SourceProperties {size} {blocks}/>"
    source = "ComplexSource" if table else "SimpleSource"
    if grid is None:
        return _element(source, content + table)
    place = (~grid.known_transform) @ file.grid.known_transform
    content += f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
    x_size, y_size = width * place.a, height * place.e
    content += f'<DstRect xOff="{place.c!r}" yOff="{place.f!r}" xSize="{x_size!r}" ySize="{y_size!r}"/>'
    how = "bilinear" if mixed and file.grid.shape != grid.shape else "nearest"
    return f'<{source} resampling="{how}">{content}{table}</{source}>'


def _indices(file: Header, meaning: str) -> str:
    """Return the colours of a file with a palette; GDAL opens it at once, since it has to see the palette."""
    return _element("ComplexSource", _filename(file) + _element("SourceBand", 1) + meaning)


def _nodata(value: float | None) -> str:
    return "" if value is None else _element("NoDataValue", repr(value))


def _filename(file: Header) -> str:
    return f'<SourceFilename relativeToVRT="0">{escape(file.location.text)}</SourceFilename>'


def _band(number: int, kind: str, content: str) -> str:
    return f'<VRTRasterBand dataType="{kind}" band="{number}">{content}</VRTRasterBand>'


def _element(name: str, content: object) -> str:
    return f"<{name}>{content}</{name}>"


def _transform(transform: Affine) -> str:
    return _element("GeoTransform", ", ".join(repr(float(value)) for value in transform.to_gdal()))
