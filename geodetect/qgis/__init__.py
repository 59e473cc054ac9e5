"""A plugin for QGIS that runs the command line of geodetect; `geodetect qgis` packs it for installation.

It runs in the Python of QGIS, which may have no geodetect and no package but QGIS itself. So it imports nothing else
of geodetect, and is limited to Python 3.9 and QGIS 3.22. Enumerations of QGIS are named without their type, as all
versions allow, those of Qt with it, as PyQt6 requires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plugin import Plugin


def classFactory(iface: Any) -> Plugin:
    """Return the plugin; called by QGIS."""
    from .plugin import Plugin

    return Plugin()
