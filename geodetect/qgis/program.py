"""Finding and running the command line of geodetect, with QGIS' progress, messages and cancelling."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import QgsProcessingException
from qgis.PyQt.QtCore import QProcess, QProcessEnvironment

SETTING = "GEODETECT_PROGRAM"
_PYTHON_OF = Path(__file__).with_name("python.txt")  # names the Python that packed this plugin
# Variables that QGIS sets for its own Python, GDAL and PROJ; they would mislead those of another installation.
_OF_QGIS = ("PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_LIB", "PROJ_DATA")
_NAME_IT = "name its program under Settings > Options > Processing > Providers > geodetect"
_POLL_MS = 100
_PERCENT = re.compile(r"(\d+)% of \d+ windows")

Progress = Callable[[str], "float | None"]  # percent of a line of output; None if it has none


def command() -> list[str]:
    """Return the command for geodetect: of the setting, else of the Python that packed this plugin, else on PATH.

    Raises:
        QgsProcessingException: if there is none.
    """
    packed = _PYTHON_OF.read_text(encoding="utf-8") if _PYTHON_OF.is_file() else ""
    found = packed if Path(packed).is_file() else shutil.which("geodetect")
    program = ProcessingConfig.getSetting(SETTING) or found
    if not program:
        raise QgsProcessingException(f"geodetect was not found on PATH; install it, and {_NAME_IT}")
    return [program, "-m", "geodetect"] if Path(program).name.lower().startswith("python") else [program]


def split(options: str) -> list[str]:
    """Return the words of a command line; quotes keep words together, and backslashes stay, as in paths on Windows."""
    words = shlex.shlex(options, posix=True)
    words.whitespace_split, words.escape, words.commenters = True, "", ""
    return list(words)


def run(arguments: Sequence[str], feedback: Any, progress: Progress = lambda line: None) -> None:
    """Run geodetect to its end; cancelling kills it.

    Args:
        arguments: what comes after `geodetect`.
        feedback: receives progress, output and warnings.
        progress: returns the percentage of a line of the standard output, or None.

    Raises:
        QgsProcessingException: if geodetect cannot be started, or ends with an error, which is the message.
    """
    program, *first = command()
    process = QProcess()
    environment = QProcessEnvironment.systemEnvironment()
    for name in _OF_QGIS:
        environment.remove(name)
    for name in ("PYTHONIOENCODING=utf-8", "PYTHONUNBUFFERED=1"):
        environment.insert(*name.split("="))
    process.setProcessEnvironment(environment)
    feedback.pushCommandInfo(" ".join(f'"{word}"' if " " in word else word for word in (program, *first, *arguments)))
    process.start(program, [*first, *arguments])
    if not process.waitForStarted(-1):
        raise QgsProcessingException(f"{program} cannot be started ({process.errorString()}); {_NAME_IT}")
    process.closeWriteChannel()
    output, messages = _Lines(process.readAllStandardOutput), _Messages(process.readAllStandardError, feedback)
    running = True
    while running:
        running = not process.waitForFinished(_POLL_MS) and process.state() != QProcess.ProcessState.NotRunning
        for line in output.take(last=not running):
            feedback.pushConsoleInfo(line)
            messages.pass_on(progress(line))
        messages.show(last=not running)
        if running and feedback.isCanceled():
            process.kill()
            process.waitForFinished(-1)
            return
    if process.exitStatus() != QProcess.ExitStatus.NormalExit:
        raise QgsProcessingException("geodetect was ended by the system, most often because memory ran out")
    if process.exitCode():
        raise QgsProcessingException(messages.error or f"geodetect failed with exit code {process.exitCode()}")


class _Lines:
    """A stream of bytes as lines; carriage returns of progress bars end lines too."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read, self._rest = read, b""

    def take(self, *, last: bool = False) -> list[str]:
        """Return the complete lines, and with `last` the rest."""
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + bytes(self._read()))
        if last:
            lines, self._rest = [*lines, self._rest], b""
        return [line.decode("utf-8", "replace") for line in lines if line.strip()]


class _Messages:
    """The standard error of geodetect: progress, warnings, and an error at the end."""

    def __init__(self, read: Callable[[], Any], feedback: Any) -> None:
        self._lines, self._feedback = _Lines(read), feedback
        self.error = ""

    def pass_on(self, percent: float | None) -> None:
        """Move the progress bar; None leaves it."""
        if percent is not None:
            self._feedback.setProgress(percent)

    def show(self, *, last: bool = False) -> None:
        """Pass new lines on to QGIS; the last one that is no warning is kept as the error."""
        for line in self._lines.take(last=last):
            kind, colon, text = line.partition(": ")
            found = _PERCENT.match(line)
            if found:
                self.pass_on(float(found[1]))
            elif colon and kind == "Warning":
                self._feedback.pushWarning(text)
            else:
                self.error = text if colon and kind == "Error" else line
                self._feedback.pushDebugInfo(line)
