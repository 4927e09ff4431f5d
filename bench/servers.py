"""The servers that are measured: ours, and the baseline."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import httpx2
import psutil

from bench.traffic import ROOT, Plan, request

T = TypeVar("T")

MODEL = "all-minilm-l6-v2"
NO_MODELS = "[ai]\npreload = []\n"
SECRET = "a-signing-secret-for-measuring-that-is-long-enough"
_URL = re.compile(rb"Serving functions on (http://\S+:(\d+))/")
_KEPT = 1 << 16


def eventually(probe: Callable[[], T], what: str, seconds: float = 30.0, step: float = 0.002) -> T:
    """Wait until `probe` answers something true; its answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:g} s: {what}")
        time.sleep(step)


class Server:
    """A process that serves and says so; what it prints goes into a pipe that is drained.

    Attributes:
        started: when its process was begun (CLOCK_MONOTONIC).
        ready: when its banner was read.

    Args:
        on_output: given what it prints, as it prints it.
    """

    def __init__(
        self,
        command: list[str],
        environ: Mapping[str, str],
        on_output: Callable[[bytes], object] = lambda data: None,
    ) -> None:
        self._tail = b""
        self._on_output = on_output
        self._banner = threading.Event()
        self.started, self.ready = time.monotonic(), 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environ},
        )
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()
        if not self._banner.wait(60) or not self.port:
            self.stop()
            raise RuntimeError(f"it did not start:\n{self.log}")

    def _drain(self) -> None:
        assert self.process.stdout is not None
        self.port = 0
        while data := os.read(self.process.stdout.fileno(), _KEPT):
            self._on_output(data)
            self._tail = (self._tail + data)[-_KEPT:]
            if not self.port and (found := _URL.search(self._tail)):
                self.ready, self.url, self.port = time.monotonic(), found[1].decode(), int(found[2])
                self._banner.set()
        self._banner.set()

    @functools.cached_property
    def _client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=30.0)

    @property
    def log(self) -> str:
        """The last of what it printed."""
        return self._tail.decode("utf-8", "replace")

    def stop(self) -> None:
        """End it, and wait for the end."""
        if "_client" in self.__dict__:
            self._client.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def family(self) -> dict[int, str]:
        """Its processes, the first one included: name by pid."""
        first = psutil.Process(self.process.pid)
        found = {}
        for process in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process.pid] = process.name()
        return found

    def pid_of(self, name: str) -> int:
        """The pid of a process, once there is one of that name."""

        def found() -> int:
            return next((pid for pid, called in self.family().items() if called == name), 0)

        return eventually(found, f"process {name}")

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU that its processes have used so far, by name."""
        used: dict[str, float] = {}
        for pid, name in self.family().items():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                used[name] = used.get(name, 0.0) + times.user + times.system
        return used

    def metric(self) -> dict[str, Any]:
        """What the server counts per function: the `functions` of `/_internal/metric`."""
        functions: dict[str, Any] = json.loads(self.page("/_internal/metric"))["functions"]
        return functions

    def page(self, path: str) -> str:
        """One of its own pages, with the service role's key."""
        return self._client.get(path, headers=bearer("service_role")).raise_for_status().text

    def ask(self, function: str) -> str:
        """The body of an answer to a POST with the anon key."""
        page = self._client.post(f"/functions/v1/{function}", headers=bearer("anon"))
        return page.raise_for_status().text

    def plan(self, *payloads: bytes, **options: Any) -> Plan:
        """A plan for the load generator."""
        return Plan(port=self.port, payloads=payloads, **options)


@functools.cache
def token(role: str = "anon") -> str:
    """A role's key for the servers measured here."""
    from runtime.project.keys import sign_role_key

    return sign_role_key(SECRET, role)


def bearer(role: str) -> dict[str, str]:
    """The header that shows a role's key."""
    return {"authorization": f"Bearer {token(role)}"}


def call(function: str, body: bytes, rest: str = "") -> bytes:
    """The bytes of a POST to a function, with the anon key."""
    return request("POST", f"/functions/v1/{function}{rest}", token(), body)


HELLO = call("hello", b'{"name":"Functions"}')


@contextlib.contextmanager
def project(functions: Mapping[str, str], config: str = NO_MODELS, env: str = "") -> Iterator[Path]:
    """A project for a while.

    Args:
        functions: for each name the source of its index.py; "" takes our example of that name.
        config, env: the contents of config.toml and the env file.
    """
    with TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder)
        (root / "supabase" / "functions").mkdir(parents=True)
        (root / "supabase" / "config.toml").write_text(config)
        (root / "supabase" / "functions" / ".env").write_text(env)
        for name, source in functions.items():
            entry = root / "functions" / name / "index.py"
            entry.parent.mkdir(parents=True)
            if source:
                entry.write_text(source)
            else:
                shutil.copyfile(ROOT / "functions" / name / "index.py", entry)
        yield root


@functools.cache
def models() -> TemporaryDirectory[str]:
    """A data folder with the embedded model, prepared once per run."""
    folder = TemporaryDirectory(prefix="bench-models-")
    command = [sys.executable, "-m", "runtime.cli.main", "models", "prepare", MODEL]
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, "XDG_DATA_HOME": folder.name}, check=True, stdout=sys.stderr
    )
    return folder


@contextlib.contextmanager
def embedding_project(functions: Mapping[str, str], config: str = "") -> Iterator[Path]:
    """A project whose `EMBEDDING_MODEL` is the embedded one, which is loaded at the start."""
    with project(functions, config, f"EMBEDDING_MODEL={MODEL}\n") as root:
        yield root


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, stopped at the end of the `with` block."""
    try:
        yield server
    finally:
        server.stop()


def serve(root: Path, **environ: str) -> contextlib.AbstractContextManager[Server]:
    """Our server, as shipped: keys are checked, requests are logged."""
    command = ["runtime.cli.main", "serve", "--port", "0", "--root", str(root)]
    return running(Server(command, {"JWT_SECRET": SECRET, **environ}))


def serve_models(root: Path) -> contextlib.AbstractContextManager[Server]:
    """Our server, with the embedded model at hand."""
    return serve(root, XDG_DATA_HOME=models().name)


def baseline() -> contextlib.AbstractContextManager[Server]:
    """Hello in uvicorn, without anything of ours around it."""
    return running(Server(["bench.baseline"], {}))
