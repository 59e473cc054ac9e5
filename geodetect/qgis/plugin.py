"""The plugin, and the provider that shows its algorithms in the Processing toolbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsApplication, QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .detect import Detect
from .program import SETTING
from .train import Train


class Plugin:
    """The plugin; QGIS calls its methods."""

    def __init__(self) -> None:
        self._provider = Provider()

    def initProcessing(self) -> None:
        """Show the algorithms; called alone by `qgis_process`."""
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self) -> None:
        """Show the algorithms; called by the desktop."""
        self.initProcessing()

    def unload(self) -> None:
        """Remove the algorithms."""
        QgsApplication.processingRegistry().removeProvider(self._provider)


class Provider(QgsProcessingProvider):  # type: ignore[misc]  # QGIS publishes no types
    """The algorithms of geodetect, and the setting for its program."""

    def id(self) -> str:
        """Return the name by which algorithms are called, as in `geodetect:detect`."""
        return "geodetect"

    def name(self) -> str:
        """Return the name shown in the toolbox."""
        return "geodetect"

    def icon(self) -> Any:
        """Return the icon shown in the toolbox."""
        return QIcon(str(Path(__file__).with_name("icon.svg")))

    def load(self) -> bool:
        """Add the setting to the options of Processing."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        title = "Program geodetect, or the Python it is installed in (empty: where the plugin was packed, or on PATH)"
        ProcessingConfig.addSetting(Setting(self.name(), SETTING, title, "", valuetype=Setting.FILE))
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Remove the setting."""
        ProcessingConfig.removeSetting(SETTING)

    def loadAlgorithms(self) -> None:
        """Add the algorithms."""
        self.addAlgorithm(Detect())
        self.addAlgorithm(Train())
