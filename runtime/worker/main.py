"""A worker: one function in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import uuid
from collections.abc import Awaitable
from typing import Any

import msgspec
import uvloop
from starlette.types import ASGIApp

import runtime.ai
import runtime.ai.llm.remote  # imported by the template, so that no first call pays for it
from runtime import frames
from runtime.ai import host as ai_host
from runtime.channel import open_stream
from runtime.context import Call, current
from runtime.door import Door
from runtime.marks import Marks
from runtime.worker import adapt, loader, logs
from runtime.worker.lifespan import Lifespan
from runtime.worker.link import Link

_control = msgspec.msgpack.Decoder(frames.ControlFrame)
_archive = msgspec.msgpack.Decoder(dict[str, bytes])


def run(control: socket.socket, folder: str) -> int:
    """Live as the function that the gateway names on `control`; the exit status.

    Args:
        folder: the worker's temporary folder.
    """
    logs.install()
    door: Door[frames.ControlFrame] = Door(control, _control)
    [(boot, fds), *early] = door.wait()
    assert isinstance(boot, frames.Boot)
    os.environ.clear()  # the interpreter has added to the empty environment (PEP 538)
    os.environ.update(boot.environ, HOME=folder, TMPDIR=folder, SB_EXECUTION_ID=str(uuid.uuid4()))
    time.tzset()
    worker = Worker(boot, fds, door)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(worker.live(early))


class Worker:
    """The process of one function: loads it, serves its connections, drains, ends."""

    def __init__(self, boot: frames.Boot, fds: list[int], door: Door[frames.ControlFrame]) -> None:
        self._boot, self._door = boot, door
        self._snapshot = fds[0]
        self._marks = Marks(fds[1], os.fstat(fds[1]).st_size)
        self._engine_fd = fds[2] if boot.engine else None
        self.function = boot.function
        self.application: ASGIApp
        self._lifespan: Lifespan | None = None
        self._in_flight = 0
        self._links: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._over = asyncio.Event()
        self._draining = False
        self.leaving = False
        self._threaded = False

    async def live(self, early: list[tuple[frames.ControlFrame, list[int]]]) -> int:
        """Boot, serve until drained or abandoned."""
        began = time.monotonic()
        host = ai_host.install(self._boot.models, self._boot.model_folders)
        if self._engine_fd is not None:
            await host.engine.attach(socket.socket(fileno=self._engine_fd))
        try:
            await self._load()
        except BaseException as error:
            self._door.send(frames.BootFailed(_summary(error), self.explain(error)))
            return 1
        gc.freeze()
        self._door.send(frames.Ready((time.monotonic() - began) * 1000, self._threaded))
        for frame, fds in early:
            self._on_frame(frame, fds)
        self._door.listen(asyncio.get_running_loop(), self._on_frame, self._over.set)
        await self._over.wait()
        return 0

    async def _load(self) -> None:
        boot = self._boot
        size = os.fstat(self._snapshot).st_size
        files = _archive.decode(os.pread(self._snapshot, size, 0))
        os.close(self._snapshot)
        module = loader.load(files, boot.directory, boot.function, boot.entrypoint, {"ai": runtime.ai})
        exported = [name for name in ("handler", "app") if callable(getattr(module, name, None))]
        if len(exported) != 1:
            raise ImportError(_wrong_exports(exported, boot))
        if exported == ["handler"]:
            websocket = getattr(module, "websocket", None)
            self._threaded = not adapt.is_async(module.handler)
            self.application = adapt.from_handler(module.handler, websocket, boot.threads)
        else:
            self._lifespan = Lifespan(module.app)
            await self._lifespan.startup()
            self.application = adapt.from_app(module.app, boot.function, self._lifespan.state)

    # what connections need

    def began(self) -> None:
        self._in_flight += 1
        self._idle.clear()

    def ended(self) -> None:
        self._in_flight -= 1
        self._check_idle()

    def keep(self, call: Call, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run work that outlives its response; see `runtime.wait_until`."""

        async def work() -> Any:
            current.set(call)
            try:
                return await awaitable
            except (SystemExit, KeyboardInterrupt) as error:  # would end the event loop, and all requests
                raise RuntimeError(f"{type(error).__name__} in work given to wait_until") from error

        task = asyncio.get_running_loop().create_task(work())
        self._background.add(task)
        task.add_done_callback(lambda done: self._kept(call, done))
        return task

    def _kept(self, call: Call, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logs.emit("error", f"work given to wait_until failed\n{self.explain(error)}", call.id)
        self._check_idle()

    def explain(self, error: BaseException) -> str:
        return loader.traceback_of(error, self._boot.directory)

    def _check_idle(self) -> None:
        if not self._in_flight and not self._background:
            self._idle.set()

    # what the gateway says

    def _on_frame(self, frame: frames.ControlFrame, fds: list[int]) -> None:
        match frame:
            case frames.Connect():
                self._spawn(self._connect(fds[0], frame.slot))
            case frames.EngineAt():
                self._spawn(self._reach_engine(frame, fds[0]))
            case frames.Drain():
                self._spawn(self._drain(frame.seconds))
            case _:
                raise AssertionError(f"a worker is no place for {type(frame).__name__}")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._links.add(task)
        task.add_done_callback(self._links.discard)

    async def _connect(self, fd: int, slot: int) -> None:
        await open_stream(socket.socket(fileno=fd), lambda: Link(self, self._marks, slot))

    async def _reach_engine(self, frame: frames.EngineAt, fd: int) -> None:
        host = ai_host.current()
        host.learn(frame.models)
        await host.engine.attach(socket.socket(fileno=fd))

    async def _drain(self, seconds: float) -> None:
        """End when nothing is in flight, or when the time is up."""
        if self._draining:
            return
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                while self._in_flight or self._background:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            left = f"{self._in_flight} requests and {len(self._background)} tasks of wait_until"
            logs.emit("warning", f"{left} did not end within {seconds:g} s")
        self.leaving = True
        if self._lifespan is not None:
            await self._lifespan.shutdown()
        self._door.send(frames.Drained())
        self._over.set()


def _summary(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _wrong_exports(exported: list[str], boot: frames.Boot) -> str:
    where = f"{boot.directory}/{boot.entrypoint}"
    if exported:
        return f"{where} exports both `handler` and `app`: keep one of them"
    return f"{where} exports neither `handler` nor `app`: define `async def handler(request)`"
