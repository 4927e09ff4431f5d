"""A worker without a process of its own: it runs on the gateway's event loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from runtime import frames
from runtime.ai import host as hosts
from runtime.context import current
from runtime.door import Door
from runtime.gateway.engine import Engine
from runtime.gateway.forker import Forker, Process
from runtime.testing import borrowed
from runtime.testing.session import FakeHost
from runtime.worker.main import Worker

_control = msgspec.msgpack.Decoder(frames.ControlFrame)

OnError = Callable[[str, BaseException], None]


class InsideWorker(Worker):
    """A worker whose models are fakes, and who tells what was raised in it."""

    models: FakeHost
    on_error: OnError
    boot_s: float
    is_late: Callable[[], bool]

    async def _load(self) -> None:
        hosts.use(self.models).folder = self._boot.model_folders
        await super()._load()

    def explain(self, error: BaseException) -> str:
        call = current.get()
        told = error
        if isinstance(error, asyncio.CancelledError) and self.is_late():
            told = RuntimeError(f"{self.function} was not ready within {self.boot_s:g} s (boot_s)")
        self.on_error("" if call is None else call.id, told)
        return super().explain(error)


class NoEngine(Engine):
    """An engine that is not there; fakes need none."""

    def __init__(self) -> None:
        self.models: list[frames.ModelCard] = []
        self.preloaded: list[str] = []
        self.known, self.warm = asyncio.Event(), asyncio.Event()
        self.known.set()
        self.warm.set()

    def connect(self) -> None:
        """There is nothing to connect to."""


class Inside(Forker):
    """Starts workers where it is.

    Args:
        temp: holds their temporary folders.
        environ: wins over what the project says.
        boot_s: what a worker may take to load, for the message.
        on_error: is given what a handler raised, with the request's id.

    Attributes:
        failure: why no worker could be started, when that is our mistake.
    """

    def __init__(
        self, temp: str, environ: Mapping[str, str], models: FakeHost, on_error: OnError, boot_s: float
    ) -> None:
        self._temp, self._environ, self._models, self._on_error = temp, environ, models, on_error
        self._boot_s = boot_s
        self.failure: Exception | None = None
        self._numbers = itertools.count(1)
        self._tasks: dict[Process, asyncio.Task[None]] = {}

    def fork(self, function: str, slot: int, fds: list[int], memory_mb: int = 0) -> Process:
        """Start a worker on this event loop."""
        process = Process()
        process.pid = next(self._numbers)
        process.forked.set_result(process.pid)
        control, log = fds
        os.close(log)  # what a function prints, it prints
        work = self._live(process, socket.socket(fileno=control))
        self._tasks[process] = asyncio.get_running_loop().create_task(work)
        return process

    def kill(self, process: Process, *, dump: bool = False) -> None:
        """Cancel it."""
        process.doomed = True
        if not process.exited.done():
            self._tasks[process].cancel()

    async def _live(self, process: Process, control: socket.socket) -> None:
        door: Door[frames.ControlFrame] = Door(control, _control)
        status = 1
        try:
            status = await self._run(process, door, os.path.join(self._temp, str(process.pid)))
        except Exception as error:  # not the function's: the worker tells of those
            self.failure = error
        finally:
            door.close(asyncio.get_running_loop())
            process.exited.set_result(status)

    async def _run(self, process: Process, door: Door[Any], folder: str) -> int:
        borrowed.forget_function()  # an earlier attempt may have failed half-way
        # Who boots it lives on the same loop: it must not be blocked.
        while not (received := door.receive()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        (boot, fds), *early = received
        os.mkdir(folder, 0o700)
        mine = {"HOME": folder, "TMPDIR": folder, "SB_EXECUTION_ID": str(uuid.uuid4())}
        borrowed.enter(boot.environ | mine | self._environ)
        worker = InsideWorker(boot, fds, door, folder)
        worker.models, worker.on_error = self._models, self._on_error
        worker.boot_s, worker.is_late = self._boot_s, lambda: process.doomed
        try:
            return await worker.live(early)
        finally:
            os.close(fds[1])  # the end of a process would
