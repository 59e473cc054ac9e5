"""A headless Chromium, driven through a pipe by the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from base64 import b64decode
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE_S = 60
_CODES = {"Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
# The browser reads commands at 3 and writes answers to 4; nothing of it goes to the network.
_FLAGS = (
    "--headless --remote-debugging-pipe --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
).split()


class Browser:
    """A browser as long as it is entered.

    Args:
        profile: a folder for what it keeps.
    """

    def __init__(self, profile: Path) -> None:
        self._profile, self._numbers, self._rest = profile, count(1), b""
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        # Other shells know only descriptors of one digit.
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command]
        self._process = subprocess.Popen(shell, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
        os.close(self._to)
        os.close(self._from)

    def open(self, path: Path, width: int = 1200, height: int = 800) -> Tab:
        """A tab of this size in px that shows a file, once it is loaded."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.send(f"{domain}.enable")
        tab.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        tab.send("Page.navigate", url=path.as_uri())
        tab.wait_for("document.readyState === 'complete'")
        return tab

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._events.append(answer)
        assert "error" not in answer, answer["error"]
        return dict(answer["result"])

    def events(self, session: str, method: str) -> list[dict[str, Any]]:
        """What a tab has told so far by this name."""
        return [each["params"] for each in self._events if (each.get("sessionId"), each["method"]) == (session, method)]

    def _next(self) -> dict[str, Any]:
        """The next message of the browser."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], _PATIENCE_S)
            assert ready, "the browser does not answer"
            part = os.read(self._from, 1 << 16)
            assert part, "the browser has gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


class Tab:
    """A page in a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the page answers to a command."""
        return self._browser.send(method, self._session, **parameters)

    def run(self, script: str) -> Any:
        """What the body of an async function returns here."""
        expression = f"(async () => {{ {script} }})()"
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Goes on when this holds on the page."""
        end = time.monotonic() + _PATIENCE_S
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"it never became true that {condition}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Presses keys, one after the other, as a keyboard does."""
        for key in keys:
            what = {"text": key} if len(key) == 1 else {"windowsVirtualKeyCode": _CODES[key]}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **what)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def point(self, x: float, y: float, kind: str = "mouseMoved", **more: Any) -> None:
        """Moves the mouse to these px, or presses or lets go of its left button there."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button, **more)

    def click(self, x: float, y: float) -> None:
        """Clicks with the left button at these px."""
        self.point(x, y, "mousePressed")
        self.point(x, y, "mouseReleased")

    def screenshot(self, path: Path) -> None:
        """Keeps what is seen, as a JPEG."""
        path.write_bytes(b64decode(self.send("Page.captureScreenshot", format="jpeg", quality=85)["data"]))

    @property
    def errors(self) -> list[dict[str, Any]]:
        """What failed in the page."""
        thrown = self._browser.events(self._session, "Runtime.exceptionThrown")
        entries = (each["entry"] for each in self._browser.events(self._session, "Log.entryAdded"))
        return [*thrown, *(each for each in entries if each["level"] == "error")]

    @property
    def requests(self) -> list[str]:
        """Addresses of all that the page asked for, but for what it holds itself."""
        sent = self._browser.events(self._session, "Network.requestWillBeSent")
        return [each["request"]["url"] for each in sent if not each["request"]["url"].startswith("data:")]
