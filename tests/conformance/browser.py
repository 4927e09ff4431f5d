"""A headless Chromium, driven through its DevTools protocol.

The protocol: https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
from websockets.sync.client import connect

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


class Page:
    """One browser with one page; its state (cookies, storage) lasts as long as it does.

    Args:
        profile: an empty folder for the browser's own files.

    Attributes:
        complaints: what the page wrote to its console as an error, refusals of its policy included.
    """

    def __init__(self, profile: Path) -> None:
        assert EXECUTABLE is not None
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        self._process = subprocess.Popen(
            [EXECUTABLE, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(profile)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._socket = connect(self._address(profile / "DevToolsActivePort"), max_size=None)
            for domain in ("Page", "Runtime", "Log"):
                self.send(f"{domain}.enable")
        except BaseException:
            self._end()
            raise

    @staticmethod
    def _address(file: Path) -> str:
        lines = eventually(lambda: file.exists() and file.read_text().split("\n"), "the browser's port")
        assert lines
        targets = httpx2.get(f"http://127.0.0.1:{lines[0]}/json/list").json()
        return next(str(one["webSocketDebuggerUrl"]) for one in targets if one["type"] == "page")

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(10)

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
        eventually(lambda: self.evaluate(condition), condition)

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
