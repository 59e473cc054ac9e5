"""Runs algorithms of the plugin in QGIS, whose Python is not ours: `python3 tests/in_qgis.py REQUEST.json`.

The request names the folder of the plugin, the program it is to run, and the runs: an algorithm, its parameters, layers
to make first, and after how many percent to cancel. The answer, JSON on stdout, tells of each run what it gave, said
and loaded.
"""

import json
import os
import sys

sys.path[:0] = ["/usr/share/qgis/python/plugins"]
from qgis.core import (  # noqa: E402  # from the folder above
    QgsApplication,
    QgsFeature,
    QgsGeometry,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)

REQUEST = json.loads(open(sys.argv[1], encoding="utf-8").read())
sys.path[:0] = [REQUEST["plugins"]]
os.environ |= REQUEST["environment"]


class Feedback(QgsProcessingFeedback):
    """Keeps what it is told, and cancels when the time has come."""

    def __init__(self, cancel_at: float | None) -> None:
        super().__init__(False)
        self.said: dict[str, list] = {"progress": [], "warnings": [], "console": [], "debug": []}
        self._cancel_at = cancel_at

    def setProgress(self, progress: float) -> None:
        self.said["progress"].append(progress)
        if self._cancel_at is not None and progress >= self._cancel_at:
            self.cancel()

    def pushWarning(self, warning: str) -> None:
        self.said["warnings"].append(warning)

    def pushConsoleInfo(self, info: str) -> None:
        self.said["console"].append(info)

    def pushDebugInfo(self, info: str) -> None:
        self.said["debug"].append(info)


def memory_layer(told: dict) -> QgsVectorLayer:
    """A layer in memory: its first features saved, the last one an edit that is not."""
    layer = QgsVectorLayer(f"{told['kind']}?crs={told['crs']}&{told.get('fields', '')}", told["name"], "memory")
    features = []
    for wkt, attributes in told["features"]:
        feature = QgsFeature(layer.fields())
        feature.setGeometry(QgsGeometry.fromWkt(wkt))
        feature.setAttributes(attributes)
        features.append(feature)
    layer.dataProvider().addFeatures(features[:-1])
    layer.updateExtents()
    layer.startEditing()
    layer.addFeatures(features[-1:])
    return layer


def made(told: dict) -> QgsVectorLayer | QgsRasterLayer:
    """A layer of memory, of a vector file with a filter, or of a raster."""
    if "features" in told:
        return memory_layer(told)
    if "raster" in told:
        return QgsRasterLayer(told["raster"], told["name"], told.get("provider", "gdal"))
    layer = QgsVectorLayer(told["source"], told["name"], "ogr")
    layer.setSubsetString(told.get("filter", ""))
    return layer


def shown(layers: list[QgsVectorLayer]) -> list[dict]:
    """How QGIS shows the layers that a run has loaded."""
    return [
        {
            "labels": [str(each.value()) for each in getattr(layer.renderer(), "categories", list)()],
            "filter": layer.subsetString(),
            "n": layer.featureCount(),
        }
        for layer in layers
    ]


def run(told: dict) -> dict:
    """What an algorithm gave and said, as from the toolbox: what it makes is loaded into the project."""
    project = QgsProject.instance()
    project.clear()
    parameters = dict(told["parameters"])
    for name, layer in told.get("layers", {}).items():
        parameters[name] = made(layer)
        project.addMapLayer(parameters[name])
        parameters[name] = parameters[name].id()
    before = set(project.mapLayers())
    feedback = Feedback(told.get("cancel_at"))
    answer: dict = {"said": feedback.said}
    try:
        answer["results"] = processing.runAndLoadResults(told["algorithm"], parameters, feedback=feedback)
    except QgsProcessingException as error:
        answer["error"] = str(error)
    made_now = [layer for name, layer in project.mapLayers().items() if name not in before]
    return answer | {"loaded": shown([layer for layer in made_now if isinstance(layer, QgsVectorLayer)])}


application = QgsApplication([], True)
application.initQgis()
import processing  # noqa: E402  # after QGIS has started
from processing.core.Processing import Processing  # noqa: E402
from processing.core.ProcessingConfig import ProcessingConfig  # noqa: E402

Processing.initialize()
import geodetect_qgis  # noqa: E402

plugin = geodetect_qgis.classFactory(None)
plugin.initProcessing()
usual = geodetect_qgis.program.command()
ProcessingConfig.settings["GEODETECT_PROGRAM"].setValue(REQUEST["program"])  # not saved
print(json.dumps({"usual": usual, "runs": [run(each) for each in REQUEST["runs"]]}))
