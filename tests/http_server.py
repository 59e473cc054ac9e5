"""A server of files for tests, in a process of its own: rasterio holds Python's lock while GDAL waits for an answer."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any


class Served:
    """A folder that is served.

    Args:
        port: of this machine.
        failures: how many requests for pixels fail from now on; -1 for all, whose connection is cut then.
        n_bytes: how many bytes were sent.
    """

    def __init__(self, port: int, failures: Synchronized, n_bytes: Synchronized) -> None:
        self.port, self.failures, self.n_bytes = port, failures, n_bytes

    def __call__(self, name: str) -> str:
        """The address of a file."""
        return f"http://127.0.0.1:{self.port}/{name}"


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *about: object, failures: Synchronized, n_bytes: Synchronized, directory: str) -> None:
        self.failures, self.n_bytes = failures, n_bytes
        super().__init__(*about, directory=directory)

    def log_message(self, *about: object) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with suppress(ConnectionError):  # GDAL hangs up when it knows enough
            super().copyfile(source, outputfile)

    def do_GET(self) -> None:
        path, asked = Path(self.translate_path(self.path)), self.headers.get("Range")
        if self.failures.value < 0:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif asked and self.failures.value:
            self.failures.value -= 1
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        elif not asked:
            super().do_GET()
        else:
            self._send_part(path.read_bytes(), asked)

    def _send_part(self, content: bytes, asked: str) -> None:
        first, last = asked.removeprefix("bytes=").split("-")
        part = content[int(first) : int(last or len(content)) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)
        self.n_bytes.value += len(part)


def _serve(folder: str, failures: Synchronized, n_bytes: Synchronized, port: Connection) -> None:
    handler = partial(_Handler, failures=failures, n_bytes=n_bytes, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        port.send(server.server_port)
        server.serve_forever()


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """The folder, served until the end; each time under addresses that GDAL has not seen."""
    context = multiprocessing.get_context("spawn")
    failures, n_bytes = context.Value("l", 0), context.Value("l", 0)
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(str(folder), failures, n_bytes, theirs), daemon=True)
    process.start()
    try:
        yield Served(mine.recv(), failures, n_bytes)
    finally:
        process.terminate()
        process.join()
