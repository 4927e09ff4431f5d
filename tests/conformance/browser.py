"""A headless Chromium, driven through its DevTools protocol.

The protocol: https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from websockets.sync.client import ClientConnection, connect

from tests.running import eventually

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


@contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A page in a browser of its own, for the time of a `with` block.

    Args:
        profile: an empty folder for the browser's files.
    """
    assert EXECUTABLE is not None
    browser = subprocess.Popen(
        [EXECUTABLE, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(profile)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_address(profile / "DevToolsActivePort"), max_size=None) as socket:
            yield Page(socket)
    finally:
        browser.terminate()
        browser.wait(10)


def _address(file: Path) -> str:
    """Where the browser's first page listens."""
    eventually(lambda: file.exists() and file.read_text().count("\n"), "the browser's port")
    port = file.read_text().split("\n")[0]

    def found() -> str:
        targets = httpx2.get(f"http://127.0.0.1:{port}/json/list").json()
        return next((str(one["webSocketDebuggerUrl"]) for one in targets if one["type"] == "page"), "")

    return eventually(found, "the browser's page")


class Page:
    """
    Attributes:
        complaints: errors that it wrote to its console, breaches of its policy included.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(20))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Go to a page and wait until it has loaded."""
        self.send("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        eventually(lambda: self.evaluate(f"Boolean({condition})"), condition)

    def type(self, text: str) -> None:
        """Put text in where the cursor is, as a keyboard or an input method does."""
        self.send("Input.insertText", text=text)

    def press(self, key: str, code: int, modifiers: int = 0) -> None:
        """Press and release a key, such as `Enter`, 13; modifiers as the protocol numbers them (8: Shift)."""
        stroke = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **stroke, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **stroke)

    def screenshot(self) -> bytes:
        """What it looks like now, as a PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot")["data"])
