"""Layers of QGIS as files that geodetect reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsCoordinateTransformContext,
    QgsFeature,
    QgsFeatureRequest,
    QgsFields,
    QgsGeometry,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsVectorFileWriter,
    QgsWkbTypes,
)

_NOT_IN_NAMES = r'[<>:"/\\|?*]'  # of files on Windows


def raster_file(layer: Any) -> str:
    """Return what GDAL opens to read a raster layer.

    Raises:
        QgsProcessingException: if the layer is no file, but a map service or a database.
    """
    if layer.providerType() != "gdal":
        raise QgsProcessingException(
            f"{layer.name()} is not a raster file but a layer of the kind {layer.providerType()!r}; "
            "save it as a GeoTIFF first (Export > Save As), and choose that"
        )
    source = str(layer.source())
    return source if Path(source).exists() else source.partition("|")[0]  # what follows says how QGIS opens it


def write_source(source: Any, folder: str, fields: Sequence[str] = ()) -> str:
    """Write features as QGIS sees them to a GeoPackage; return its path.

    So memory layers, databases, unsaved edits, filters, selections and layers beside others in a file are all alike to
    geodetect, which calls the file by the name of the layer.

    Args:
        source: features, as an algorithm gets them.
        folder: where the file is to lie.
        fields: names of the columns to keep, as far as the source has them.

    Raises:
        QgsProcessingException: if there are no features, or they cannot be written.
    """
    if not source.featureCount():
        raise QgsProcessingException(f"{source.sourceName()} has no features; choose another layer, or none")
    columns = [source.fields().at(i) for i in (source.fields().lookupField(name) for name in fields) if i >= 0]
    unchecked = QgsProcessingFeatureSource.FlagSkipGeometryValidityChecks  # geodetect mends what it can
    features = source.getFeatures(QgsFeatureRequest(), unchecked)
    return _write(features, source.sourceCrs(), _path(folder, source.sourceName()), columns)


def write_geometry(geometry: Any, crs: Any, folder: str) -> str:
    """Write one geometry to a GeoPackage; return its path.

    Args:
        geometry: a polygon.
        crs: its coordinate reference system.
        folder: where the file is to lie.

    Raises:
        QgsProcessingException: if it cannot be written.
    """
    feature = QgsFeature()
    feature.setGeometry(geometry)
    return _write([feature], crs, _path(folder, "extent"), [])


def _path(folder: str, name: str) -> Path:
    """A file of this name, as far as every system allows it."""
    return Path(folder) / f"{re.sub(_NOT_IN_NAMES, '_', name).strip(' .') or 'layer'}.gpkg"


def _write(features: Iterable[Any], crs: Any, path: Path, columns: Sequence[Any]) -> str:
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName, options.layerName = "GPKG", path.stem
    options.layerOptions = ["FID=geodetect_fid", "GEOMETRY_NAME=geodetect_geometry"]  # as no column is called
    fields = QgsFields()
    for column in columns:
        fields.append(column)
    context, any_kind = QgsCoordinateTransformContext(), QgsWkbTypes.Unknown
    writer = QgsVectorFileWriter.create(str(path), fields, any_kind, crs, context, options)
    for feature in features:
        copy = QgsFeature(fields)
        copy.setGeometry(_straight(feature.geometry()))
        copy.setAttributes([feature[column.name()] for column in columns])
        writer.addFeature(copy)
    error = writer.errorMessage()
    del writer  # which closes the file
    if error:
        raise QgsProcessingException(f"{path.name} cannot be written: {error}")
    return str(path)


def _straight(geometry: Any) -> Any:
    """The geometry with its curves as short lines, which are all that geodetect reads."""
    return QgsGeometry(geometry.constGet().segmentize()) if QgsWkbTypes.isCurvedType(geometry.wkbType()) else geometry
