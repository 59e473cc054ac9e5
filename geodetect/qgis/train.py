"""The algorithm that trains a detector on a raster and labels."""

from __future__ import annotations

import re
import tempfile
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)

from .layers import raster_file, write_source
from .program import run, split

_HELP = (
    'Trains a detector on a raster and a layer of labels, and saves it as a .safetensors file for "Detect objects".\n'
    "Labels: polygons around the objects, or points with a radius. Label every object in the raster, or in the area "
    "given by --aoi: unlabelled objects count as background.\n"
    "Class field: the column with the class of each label. By default the column label; without it, all labels are one "
    "class with the name of the layer.\n"
    "Chip size: side of the squares into which the raster is divided; use less for small rasters and small objects.\n"
    "Epochs: number of passes over the chips; use more for few labels. One takes seconds on a GPU, minutes without.\n"
    "Spatial blocks are held out for validation; the log shows the average precision (AP50) on them after each epoch. "
    "No model is saved if you cancel."
)


class Train(QgsProcessingAlgorithm):  # type: ignore[misc]  # QGIS publishes no types
    """Runs `geodetect train`."""

    INPUT, LABELS, CLASS_FIELD, POINT_RADIUS, CHIP_SIZE, EPOCHS, EXTRA, OUTPUT = (
        "INPUT", "LABELS", "CLASS_FIELD", "POINT_RADIUS", "CHIP_SIZE", "EPOCHS", "EXTRA", "OUTPUT"
    )  # fmt: skip

    def name(self) -> str:
        """Return the name by which it is called: `geodetect:train`."""
        return "train"

    def displayName(self) -> str:
        """Return the title in the toolbox."""
        return "Train a detector"

    def shortHelpString(self) -> str:
        """Return the text beside the form."""
        return _HELP

    def createInstance(self) -> Train:
        """Return a new one, as QGIS asks for every run."""
        return Train()

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Describe the form."""
        self.addParameter(QgsProcessingParameterRasterLayer(self.INPUT, "Raster"))
        kinds = [QgsProcessing.TypeVectorPolygon, QgsProcessing.TypeVectorPoint]
        self.addParameter(QgsProcessingParameterFeatureSource(self.LABELS, "Labels", kinds))
        self.addParameter(
            QgsProcessingParameterField(
                self.CLASS_FIELD, "Class field", parentLayerParameterName=self.LABELS, optional=True
            )
        )
        real, whole = QgsProcessingParameterNumber.Double, QgsProcessingParameterNumber.Integer
        self.addParameter(
            QgsProcessingParameterNumber(
                self.POINT_RADIUS, "Radius of points, in metres", real, optional=True, minValue=0
            )
        )
        self.addParameter(QgsProcessingParameterNumber(self.CHIP_SIZE, "Chip size, in pixels", whole, 512, minValue=32))
        self.addParameter(QgsProcessingParameterNumber(self.EPOCHS, "Epochs", whole, 20, minValue=1))
        extra = QgsProcessingParameterString(self.EXTRA, "More options of geodetect train", optional=True)
        extra.setHelp("As on the command line, such as --backbone resnet18 --scales auto")
        extra.setFlags(extra.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
        self.addParameter(extra)
        self.addParameter(
            QgsProcessingParameterFileDestination(self.OUTPUT, "Model", fileFilter="Models (*.safetensors)")
        )

    def processAlgorithm(self, parameters: dict[str, Any], context: Any, feedback: Any) -> dict[str, Any]:
        """Run geodetect, in a thread of its own."""
        raster = self.parameterAsRasterLayer(parameters, self.INPUT, context)
        if raster is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, self.INPUT))
        labels = self.parameterAsSource(parameters, self.LABELS, context)
        if labels is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, self.LABELS))
        epochs = self.parameterAsInt(parameters, self.EPOCHS, context)
        chip_size = self.parameterAsInt(parameters, self.CHIP_SIZE, context)
        options = ["--epochs", str(epochs), "--chip-size", str(chip_size)]
        field = self.parameterAsString(parameters, self.CLASS_FIELD, context)
        options += ["--label-field", field] if field else []
        if parameters.get(self.POINT_RADIUS) not in (None, ""):
            options += ["--point-radius-m", str(self.parameterAsDouble(parameters, self.POINT_RADIUS, context))]
        options += split(self.parameterAsString(parameters, self.EXTRA, context))
        output = self.parameterAsFileOutput(parameters, self.OUTPUT, context)

        def parse_percent(line: str) -> float | None:
            """Return the progress after the epoch in a line of the training table; None for other lines."""
            found = re.fullmatch(r"\s*(\d+)(\s+[\d.:na]+){4}\s*", line)
            return None if found is None else 100 * (int(found[1]) + 1) / epochs

        with tempfile.TemporaryDirectory() as folder:
            file = write_source(labels, folder, [field or "label"])
            arguments = ["train", "--labels", file, *options, "--", raster_file(raster), output]
            run(arguments, feedback, parse_percent)
        return {self.OUTPUT: output}
