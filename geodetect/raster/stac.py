"""Items of a SpatioTemporal Asset Catalog (STAC) as scenes: an item's single raster, or bands of several.

Format: https://github.com/radiantearth/stac-spec/blob/master/item-spec/item-spec.md; names of bands are those of
`bands` (STAC 1.1) or `eo:bands` (https://github.com/stac-extensions/eo), and the keys of the assets.
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit

import numpy as np

from geodetect.addresses import name_of
from geodetect.errors import RasterError, harmless
from geodetect.grid import Grid, Window
from geodetect.raster.header import Header, read_headers
from geodetect.raster.layers import check_bands
from geodetect.raster.opening import Location
from geodetect.raster.virtual import stack

_JSON = ".json"
_API = re.compile(r"/items/[^/]+/?$")  # path of an item in a STAC API
_RASTER_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff")
_RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
_PREVIEWS = {"thumbnail", "overview"}  # roles
_TIMEOUT_S = 20
_LARGEST_BYTES = 50_000_000
_SAME = 1e-6  # relative difference of pixel sizes by rounding
_ALIGNED = 0.01  # px; as close to a pixel's edge is on it
_LISTED = 20  # names in a message at most


class _Band(NamedTuple):
    """A band that an item offers.

    Args:
        asset: the key of its asset.
        href: the asset's address.
        number: of the band in it, from 1.
        n_bands: number of bands that the item lists for the asset.
        own: its name; empty if it has none.
        common: common name of bands of its colour, such as "nir"; empty if unknown.
    """

    asset: str
    href: str
    number: int
    n_bands: int
    own: str
    common: str


def list_item_bands(path: str) -> tuple[str, list[str]] | None:
    """Return the name of an item, and the names of each band of its rasters; None if the file is no item.

    Raises:
        RasterError: as `locate_item`.
    """
    item = _read_item(path)
    return (
        None if item is None else (_name(item, path), [_names_of(band) for band in _list_bands(_rasters(item, path))])
    )


def locate_item(path: str, bands: Sequence[int | str] | None, nodata: float | None = None) -> tuple[Location, str]:
    """Return location and name of a raster; of an item its single raster, or the bands given by name.

    Args:
        path: a path or URL of a raster or an item.
        bands: those that will be read; bands of an item in files of their own have names only.
        nodata: no-data value besides those that the files declare.

    Raises:
        RasterError: if an item cannot be read, has no raster, or has several of which bands do not choose.
    """
    item = _read_item(path)
    if item is None:
        return Location.of(path), name_of(path)
    name, assets = _name(item, path), _rasters(item, path)
    if not assets:
        raise RasterError(f"{name} is a STAC item without a raster (GeoTIFF, JPEG 2000) among its assets")
    if bands is not None:
        check_bands(bands)
    offered = _list_bands(assets)
    wanted = [band for band in bands or () if isinstance(band, str)]
    # If the item does not list the bands of its single raster, the names are the raster's own, or its key.
    known = len(assets) > 1 or offered[0].own or offered[0].common or set(wanted) == set(assets)
    if wanted and len(wanted) == len(bands or ()) and known:
        return _stack(name, offered, dict.fromkeys(wanted), nodata), name
    if len(assets) > 1:
        raise RasterError(
            f'{name} is a STAC item of {len(assets)} rasters; name the bands to read, such as bands=("red", "green", '
            f'"blue"), or one of the rasters by its own address; it has {_join_names(offered)}'
        )
    (asset,) = assets.values()
    return Location.of(str(asset["href"])), name


def _read_item(path: str) -> dict[str, Any] | None:
    """Return the item in a file or at a URL; None if there is something else, such as a raster.

    Raises:
        RasterError: if it cannot be read, is named as JSON but is not, or is a catalog or collection.
    """
    if path.startswith(("http://", "https://")):
        inside = _url_path(path)
        is_api = _API.search(inside) and not inside.lower().endswith(_RASTER_SUFFIXES)
        may_be_item = inside.endswith(_JSON) or bool(is_api)
    else:
        may_be_item = path.lower().endswith(_JSON) and os.path.isfile(path) and os.path.getsize(path) <= _LARGEST_BYTES
    if not may_be_item:
        return None
    try:
        if "://" in path:
            with urllib.request.urlopen(path, timeout=_TIMEOUT_S) as answer:
                content = bytes(answer.read(_LARGEST_BYTES))
        else:
            content = Path(path).read_bytes()
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection open
        raise RasterError(f"{path} cannot be read: {getattr(error, 'reason', None) or error}") from harmless(error)
    try:
        item = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if not _url_path(path).endswith(_JSON):
            return None  # it may be a raster
        raise RasterError(f"{path} is no JSON, and no STAC item: {error}") from harmless(error)
    if not isinstance(item, dict) or "stac_version" not in item:
        return None
    if item.get("type") != "Feature":
        kind = item.get("type", "object")
        raise RasterError(f"{_name(item, path)} is a STAC {kind} and no item; name one of its items")
    return item


def _name(item: dict[str, Any], path: str) -> str:
    return str(item.get("id") or name_of(path))


def _url_path(address: str) -> str:
    """Return the path in a URL; empty if it is malformed."""
    try:
        return urlsplit(address).path
    except ValueError:
        return ""


def _rasters(item: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """Return the assets that are rasters by key, with complete addresses; those with the role "data" if any has it."""
    assets = item.get("assets")
    found = {}
    for key, asset in assets.items() if isinstance(assets, dict) else ():
        if not isinstance(asset, dict) or not asset.get("href") or _PREVIEWS & _roles(asset):
            continue
        kind, href = str(asset.get("type") or ""), str(asset["href"])
        if not (kind.lower().startswith(_RASTER_TYPES) or _url_path(href).lower().endswith(_RASTER_SUFFIXES)):
            continue
        if href.startswith("file://"):
            href = urllib.request.url2pathname(_url_path(href))
        elif "://" not in href and not href.startswith("/vsi"):  # relative to the item
            href = urljoin(path, href) if "://" in path else os.path.join(os.path.dirname(path), href)
        found[key] = {**asset, "href": href}
    data = {key: asset for key, asset in found.items() if "data" in _roles(asset)}
    return data or found


def _roles(asset: dict[str, Any]) -> set[str]:
    roles = asset.get("roles")
    return {str(role) for role in roles} if isinstance(roles, list) else set()


def _list_bands(assets: dict[str, dict[str, Any]]) -> list[_Band]:
    """Return the bands of all rasters of an item; a raster without a list of bands has one, named by its key."""
    bands = []
    for key, asset in assets.items():
        listed = asset.get("bands") or asset.get("eo:bands")
        listed = [band for band in listed if isinstance(band, dict)] if isinstance(listed, list) else []
        for number, band in enumerate(listed or [{}], 1):
            common = band.get("eo:common_name") or band.get("common_name") or ""
            own = str(band.get("name") or "")
            bands.append(_Band(key, asset["href"], number, max(len(listed), 1), own, str(common)))
    return bands


def _find(item: str, offered: Sequence[_Band], wanted: str) -> _Band:
    """Return the band of the asset with this key, or with this name, or with this common name, in this order.

    Of a band that lies both alone and in a composite, as in archives of Sentinel-2, the former is returned.

    Raises:
        RasterError: if there is none, or more than one.
    """
    keyed = [band for band in offered if band.asset == wanted]
    if len(keyed) > 1:
        raise RasterError(
            f"{wanted} of {item} has {len(keyed)} bands; name them ({_join_names(keyed)}), "
            f"or open {keyed[0].href} itself"
        )
    for found in (
        keyed,
        [band for band in offered if band.own.casefold() == wanted.casefold()],
        [band for band in offered if band.common.casefold() == wanted.casefold()],
    ):
        fewest = min((band.n_bands for band in found), default=0)
        alone = [band for band in found if band.n_bands == fewest]
        if len(alone) == 1:
            return alone[0]
        if alone:
            where = " and ".join(band.asset for band in alone)
            raise RasterError(f"{item} has a band {wanted!r} in {where}; name one of these instead")
    raise RasterError(f"{item} has no band {wanted!r}; it has {_join_names(offered)}")


def _join_names(bands: Iterable[_Band]) -> str:
    """Return the names of bands for a message."""
    names = [_names_of(band) for band in bands]
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _names_of(band: _Band) -> str:
    """Return all names of a band; if it has none, its number in its asset."""
    names = (band.asset if band.n_bands == 1 else "", band.own, band.common)
    return " or ".join(dict.fromkeys(filter(None, names))) or f"{band.asset} {band.number}"


def _stack(name: str, offered: Sequence[_Band], wanted: Iterable[str], nodata: float | None) -> Location:
    """Return the virtual raster of the bands with these names: the ground of all, in pixels of the finest.

    Raises:
        RasterError: if one is missing, or they do not cover the same ground.
    """
    bands = [(each, _find(name, offered, each)) for each in wanted]
    hrefs = list(dict.fromkeys(band.href for _, band in bands))
    headers = read_headers([(Location.of(href), name_of(href)) for href in hrefs], nodata)
    files = {href: file.with_mask(file.read_alpha_threshold()) for href, file in zip(hrefs, headers, strict=True)}
    frame = min((file.grid for file in files.values()), key=lambda grid: abs(grid.known_transform.determinant))
    for each, band in bands:
        if files[band.href].layers.palette is not None:
            raise RasterError(f"{files[band.href].name} of {name} holds colours by number; open {band.href} itself")
        if band.number > files[band.href].layers.n_bands or (each == band.asset and files[band.href].n_bands > 1):
            raise RasterError(
                f"{files[band.href].name} has {files[band.href].n_bands} bands, not as {name} says of its band "
                f"{each!r}; open {band.href} itself"
            )
    extents = np.array([_extent(file, frame) for file in files.values()])
    x1, y1 = np.ceil(extents[:, :2].max(axis=0) - _ALIGNED).astype(int).tolist()
    x2, y2 = np.floor(extents[:, 2:].min(axis=0) + _ALIGNED).astype(int).tolist()
    grid = frame.window(Window(x1, y1, x2 - x1, y2 - y1))
    return stack([(each, files[band.href], band.number) for each, band in bands], grid)


def _extent(file: Header, frame: Grid) -> tuple[float, float, float, float]:
    """Return the bounds of a file in pixels of the frame: x1, y1, x2, y2.

    Raises:
        RasterError: if its CRS or direction differs, or it covers more or less by more than one of its pixels.
    """
    if file.grid.crs != frame.crs:
        raise RasterError(
            f"{file.name} and {frame.name} have different coordinate reference systems; "
            "bring them to one first (gdalwarp)"
        )
    place = (~frame.known_transform) @ file.grid.known_transform
    straight = max(abs(place.b), abs(place.d)) < _SAME and min(place.a, place.e) > 0
    (height, width), (frame_height, frame_width) = file.grid.shape, frame.shape
    x1, y1, x2, y2 = place.c, place.f, place.c + width * place.a, place.f + height * place.e
    off = max(abs(x1), abs(y1), abs(x2 - frame_width), abs(y2 - frame_height))
    if not straight or off > max(place.a, place.e):
        raise RasterError(
            f"{file.name} and {frame.name} do not cover the same ground; cut them to the same bounds first (gdalwarp)"
        )
    return x1, y1, x2, y2
