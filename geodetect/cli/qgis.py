"""`geodetect qgis`: pack the plugin for QGIS."""

from __future__ import annotations

import io
import sys
import zipfile
from importlib import resources
from pathlib import Path

import click

from geodetect import __version__
from geodetect.errors import OutputError
from geodetect.files import replace_atomically

_FOLDER = "geodetect_qgis"  # name of the plugin's package in QGIS
_SUFFIXES = (".py", ".svg", ".txt")


@click.command()
@click.argument("plugin", metavar="OUT.zip", type=click.Path(path_type=Path))
def qgis(plugin: Path) -> None:
    """Write the QGIS plugin to OUT.zip.

    Install it with Plugins > Manage and Install Plugins > Install from ZIP. It adds "Detect objects" and
    "Train a detector" to the Processing toolbox, and runs this installation of geodetect.
    """
    if plugin.suffix.lower() != ".zip":
        raise OutputError(f"OUT.zip must be a .zip file; got {plugin}")
    if not plugin.parent.is_dir():
        raise OutputError(f"the folder {plugin.parent} does not exist; make it first, or choose another")
    with replace_atomically(plugin) as part:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in resources.files("geodetect.qgis").iterdir():
                if file.name.endswith(_SUFFIXES):
                    version = f"version={__version__}\n" if file.name == "metadata.txt" else ""
                    archive.writestr(f"{_FOLDER}/{file.name}", file.read_text(encoding="utf-8") + version)
            archive.writestr(f"{_FOLDER}/python.txt", sys.executable)  # the Python that has geodetect
        part.write_bytes(content.getvalue())
    click.echo(f"Wrote {plugin}; install it in QGIS with Plugins > Manage and Install Plugins > Install from ZIP")
