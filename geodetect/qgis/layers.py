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

_NOT_IN_NAMES = r'[<>:"/\\|?*]'  # characters that Windows forbids in names of files


def raster_file(layer: Any) -> str:
    """Return the path or the GDAL connection string of a raster layer.

    Raises:
        QgsProcessingException: if the layer is not read by GDAL, such as a map service.
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

    This covers memory layers, databases, unsaved edits, filters, selections and files of several layers. The file is
    named after the layer.

    Args:
        source: feature source of an algorithm.
        folder: folder of the new file.
        fields: names of the columns to keep; missing ones are ignored.

    Raises:
        QgsProcessingException: if there are no features, or they cannot be written.
    """
    if not source.featureCount():
        raise QgsProcessingException(f"{source.sourceName()} has no features; choose another layer, or none")
    columns = [source.fields().at(i) for i in (source.fields().lookupField(name) for name in fields) if i >= 0]
    unchecked = QgsProcessingFeatureSource.FlagSkipGeometryValidityChecks  # geodetect repairs them
    features = source.getFeatures(QgsFeatureRequest(), unchecked)
    return _write(features, source.sourceCrs(), _path(folder, source.sourceName()), columns)


def write_geometry(geometry: Any, crs: Any, folder: str) -> str:
    """Write one geometry to a GeoPackage; return its path.

    Args:
        geometry: a polygon.
        crs: its coordinate reference system.
        folder: folder of the new file.

    Raises:
        QgsProcessingException: if it cannot be written.
    """
    feature = QgsFeature()
    feature.setGeometry(geometry)
    return _write([feature], crs, _path(folder, "extent"), [])


def _path(folder: str, name: str) -> Path:
    """Return a path in the folder with a name that every system allows."""
    return Path(folder) / f"{re.sub(_NOT_IN_NAMES, '_', name).strip(' .') or 'layer'}.gpkg"


def _write(features: Iterable[Any], crs: Any, path: Path, columns: Sequence[Any]) -> str:
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName, options.layerName = "GPKG", path.stem
    options.layerOptions = ["FID=geodetect_fid", "GEOMETRY_NAME=geodetect_geometry"]  # names that no column has
    fields = QgsFields()
    for column in columns:
        fields.append(column)
    context, any_kind = QgsCoordinateTransformContext(), QgsWkbTypes.Unknown
    writer = QgsVectorFileWriter.create(str(path), fields, any_kind, crs, context, options)
    for feature in features:
        copy = QgsFeature(fields)
        geometry = feature.geometry()
        if QgsWkbTypes.isCurvedType(geometry.wkbType()):  # geodetect reads no curves
            geometry = QgsGeometry(geometry.constGet().segmentize())
        copy.setGeometry(geometry)
        copy.setAttributes([feature[column.name()] for column in columns])
        writer.addFeature(copy)
    error = writer.errorMessage()
    del writer  # which closes the file
    if error:
        raise QgsProcessingException(f"{path.name} cannot be written: {error}")
    return str(path)
