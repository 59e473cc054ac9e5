"""The algorithm that detects objects in a raster with a model."""

from __future__ import annotations

import tempfile
from typing import Any, ClassVar

from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)

from .layers import raster_file, write_geometry, write_source
from .program import run, split

_HELP = (
    "Detects objects with a trained model and writes a box for each, with the class in the column label and the score, "
    "0 to 1, in the column score.\n"
    'Model: a .safetensors file from "Train a detector", or an .onnx file exported by geodetect.\n'
    "Lowest score: boxes with lower scores are not written. By default, the score that was best in validation.\n"
    "Show from this score on: the filter of the new layer. For example, write boxes from 0.05 and show them from 0.5; "
    "change the threshold later with Layer > Filter.\n"
    "Area: a polygon layer or an extent; only objects with their centre inside are kept.\n"
    "A GeoPackage (.gpkg) includes a style: one colour per class, and scores at scales of 1:5,000 and larger."
)


class _Styler(QgsProcessingLayerPostProcessorInterface):  # type: ignore[misc]
    """A post-processor of the new layer: it loads the style in the file, and sets a filter.

    Args:
        score: boxes below it are hidden; None shows all.
    """

    _waiting: ClassVar[set[_Styler]] = set()  # keeps them alive, since QGIS holds no reference

    def __init__(self, score: float | None) -> None:
        super().__init__()
        self._score = score
        self._waiting.add(self)

    def postProcessLayer(self, layer: Any, context: Any, feedback: Any) -> None:
        """Called by QGIS when the layer is in the project."""
        layer.loadDefaultStyle()
        if self._score is not None:
            layer.setSubsetString(f'"score" >= {self._score}')
        layer.triggerRepaint()
        self._waiting.discard(self)


class Detect(QgsProcessingAlgorithm):  # type: ignore[misc]  # QGIS publishes no types
    """Runs `geodetect detect`."""

    INPUT, MODEL, MIN_SCORE, SHOWN, AREA, EXTENT, EXTRA, OUTPUT = (
        "INPUT", "MODEL", "MIN_SCORE", "SHOWN", "AREA", "EXTENT", "EXTRA", "OUTPUT"
    )  # fmt: skip

    def name(self) -> str:
        """Return the name by which it is called: `geodetect:detect`."""
        return "detect"

    def displayName(self) -> str:
        """Return the title in the toolbox."""
        return "Detect objects"

    def shortHelpString(self) -> str:
        """Return the text beside the form."""
        return _HELP

    def createInstance(self) -> Detect:
        """Return a new one, as QGIS asks for every run."""
        return Detect()

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Describe the form."""
        self.addParameter(QgsProcessingParameterRasterLayer(self.INPUT, "Raster"))
        self.addParameter(
            QgsProcessingParameterFile(self.MODEL, "Model", fileFilter="Models (*.safetensors *.onnx);;All files (*)")
        )
        real = QgsProcessingParameterNumber.Double
        for name, title in ((self.MIN_SCORE, "Lowest score"), (self.SHOWN, "Show from this score on")):
            self.addParameter(QgsProcessingParameterNumber(name, title, real, optional=True, minValue=0, maxValue=1))
        polygons = [QgsProcessing.TypeVectorPolygon]
        self.addParameter(
            QgsProcessingParameterFeatureSource(self.AREA, "Area: layer of polygons", polygons, optional=True)
        )
        self.addParameter(QgsProcessingParameterExtent(self.EXTENT, "Area: extent", optional=True))
        extra = QgsProcessingParameterString(self.EXTRA, "More options of geodetect detect", optional=True)
        extra.setHelp(
            "As on the command line, such as --bands 1,1,1 to use a greyscale raster with a model of three bands"
        )
        extra.setFlags(extra.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
        self.addParameter(extra)
        output = QgsProcessingParameterVectorDestination(self.OUTPUT, "Detections", polygons[0])
        output.setSupportsNonFileBasedOutput(False)
        self.addParameter(output)

    def checkParameterValues(self, parameters: dict[str, Any], context: Any) -> tuple[bool, str]:
        """Return whether the form can be run, and what is wrong if not."""
        if parameters.get(self.AREA) and not self.parameterAsExtent(parameters, self.EXTENT, context).isNull():
            return False, "Area: expected a layer or an extent, got both; leave one of them empty"
        return super().checkParameterValues(parameters, context)  # type: ignore[no-any-return]

    def processAlgorithm(self, parameters: dict[str, Any], context: Any, feedback: Any) -> dict[str, Any]:
        """Run geodetect, in a thread of its own."""
        raster = self.parameterAsRasterLayer(parameters, self.INPUT, context)
        if raster is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, self.INPUT))
        output = self.parameterAsOutputLayer(parameters, self.OUTPUT, context)
        lowest = self._read_score(self.MIN_SCORE, parameters, context)
        options = [] if lowest is None else ["--min-score", str(lowest)]
        options += split(self.parameterAsString(parameters, self.EXTRA, context))
        model = self.parameterAsFile(parameters, self.MODEL, context)
        with tempfile.TemporaryDirectory() as folder:
            area = self._write_area(parameters, context, raster.crs(), folder)
            options += [] if area is None else ["--aoi", area]
            run(["detect", *options, "--", raster_file(raster), model, output], feedback)
        if context.willLoadLayerOnCompletion(output):
            shown = _Styler(self._read_score(self.SHOWN, parameters, context))
            context.layerToLoadOnCompletionDetails(output).setPostProcessor(shown)
        return {self.OUTPUT: output}

    def _read_score(self, name: str, parameters: dict[str, Any], context: Any) -> float | None:
        """Return the number in a field of the form; None for an empty one."""
        given = parameters.get(name)
        return None if given is None or given == "" else float(self.parameterAsDouble(parameters, name, context))

    def _write_area(self, parameters: dict[str, Any], context: Any, crs: Any, folder: str) -> str | None:
        """Return the area as a vector file; None for no limit."""
        if parameters.get(self.AREA):
            source = self.parameterAsSource(parameters, self.AREA, context)
            if source is None:
                raise QgsProcessingException(self.invalidSourceError(parameters, self.AREA))
            return write_source(source, folder)
        if self.parameterAsExtent(parameters, self.EXTENT, context).isNull():
            return None
        return write_geometry(self.parameterAsExtentGeometry(parameters, self.EXTENT, context, crs), crs, folder)
