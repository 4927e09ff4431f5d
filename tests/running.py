"""A real server for tests: `functions serve` in a process of its own, on a port of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil

T = TypeVar("T")

SECRET = "a-signing-secret-for-tests-that-is-long-enough"
HELLO = """
async def handler(request):
    name = (await request.json())["name"]
    return {"message": f"Hello {name}!"}
"""
_READY = re.compile(r"Serving functions on ((http://[^/\s]+)\S*)/<")


def eventually(probe: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """Wait until `probe` answers something true; its answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


def project(root: Path, functions: Mapping[str, str], config: str = "[ai]\npreload = []\n") -> Path:
    """A project on disk: the source of each function's index.py (or `NAME/file`), and a config."""
    for name, source in functions.items():
        path = root / "functions" / (name if "/" in name else f"{name}/index.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (root / "supabase" / "functions").mkdir(parents=True, exist_ok=True)
    (root / "supabase" / "config.toml").write_text(config)
    return root


def descendants(pid: int) -> dict[int, str]:
    """What descends from a process: name by pid. Some may end while one looks."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process.pid] = process.name()
    return found


class Server:
    """A running server.

    Args:
        via: a command that starts it, put before its own.

    Attributes:
        url: scheme, host and port.
        functions: `url` and the prefix: append `/NAME`.
    """

    def __init__(
        self,
        root: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        via: Sequence[str] = (),
        **popen: Any,
    ) -> None:
        environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "JWT_SECRET": SECRET}
        if "XDG_DATA_HOME" in os.environ:
            environ["XDG_DATA_HOME"] = os.environ["XDG_DATA_HOME"]
        self.root = root
        self.url = self.functions = ""
        self._lines: list[str] = []
        command = [sys.executable, "-m", "runtime.cli.main", "serve", "--port", "0", "--root", str(root)]
        self.process = subprocess.Popen(
            [*via, *command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ | dict(env or {}),
            **popen,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # what it printed

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line.decode("utf-8", "replace").rstrip("\n"))

    @property
    def log(self) -> str:
        """Everything it printed so far."""
        return "\n".join(self._lines)

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """Wait until `text` was printed at least `count` times."""
        eventually(lambda: self.log.count(text) >= count, f"{text!r} in the log:\n{self.log}")

    def wait_ready(self) -> Server:
        """Wait for its banner."""

        def found() -> bool:
            match = _READY.search(self.log)
            if match is None:
                assert self.process.poll() is None, f"the server ended:\n{self.log}"
                return False
            self.functions, self.url = match[1], match[2]
            return True

        eventually(found, "the banner")
        return self

    # who it is

    @property
    def pid(self) -> int:
        return self.process.pid

    def family(self) -> dict[int, str]:
        """Every process of it: name by pid."""
        return descendants(self.pid)

    def pid_of(self, name: str) -> int:
        """The pid of `fn-gateway`, `fn-engine`, `fn-template` or `fn:FUNCTION`."""
        return eventually(
            lambda: next((pid for pid, found in self.family().items() if found == name), 0), f"process {name}"
        )

    def metric(self) -> dict[str, Any]:
        """`/_internal/metric`, with the service key."""
        headers = {"authorization": f"Bearer {self.token('service_role')}"}
        metric: dict[str, Any] = httpx2.get(f"{self.url}/_internal/metric", headers=headers).json()
        return metric

    # calling it

    @staticmethod
    def token(role: str = "anon") -> str:
        """The project's key for a role."""
        from runtime.project.keys import sign_role_key

        return sign_role_key(SECRET, role)

    def client(self, **options: Any) -> httpx2.Client:
        """A client with the anon key, whose base URL is the functions' prefix."""
        headers = {"authorization": f"Bearer {self.token()}"}
        return httpx2.Client(base_url=self.functions, headers=headers, timeout=30.0, **options)

    # editing its project

    def save(self, path: str, text: str) -> None:
        """Replace a file of the project as editors do: write another beside it and rename."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f"{target.name}.tmp")
        beside.write_text(text)
        beside.replace(target)

    def save_until(self, path: str, text: str, probe: Callable[[], object]) -> None:
        """Save a file, and wait until `probe` sees it served."""
        self.save(path, text)
        eventually(probe, f"what was saved in {path}; the log:\n{self.log}")

    # its end

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20.0) -> int:
        """Send a signal and wait for the end; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(5.0)
            if self.process.stdout is not None:
                self.process.stdout.close()


@contextlib.contextmanager
def serving(
    root: Path, *arguments: str, env: Mapping[str, str] | None = None, **popen: Any
) -> Iterator[Server]:
    """A ready server for the time of a `with` block."""
    server = Server(root, *arguments, env=env, **popen)
    try:
        yield server.wait_ready()
    finally:
        server.stop()


def body(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object of a response."""
    value: dict[str, Any] = json.loads(response.content)
    return value
