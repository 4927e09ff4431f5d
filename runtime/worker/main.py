"""A worker: one function in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import uuid
from collections.abc import Awaitable
from types import ModuleType
from typing import Any

import msgspec
import uvloop
from starlette.types import ASGIApp

import runtime.ai
import runtime.ai.llm.remote  # imported by the template, so that no first call pays for it
from runtime import frames, process
from runtime.ai import host as ai_host
from runtime.channel import open_stream
from runtime.context import Call, current
from runtime.door import Door
from runtime.marks import Marks
from runtime.worker import adapt, files, hooks, loader, logs
from runtime.worker.exports import Exports, exports_of, is_async
from runtime.worker.lifespan import Lifespan
from runtime.worker.link import Link

_DESCRIPTORS = 64  # besides those of its requests
_LAST_S = 0.5  # what a lifespan's shutdown has at least; the gateway waits a little longer
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
    process.allow_descriptors(2 * boot.threads + _DESCRIPTORS)  # a connection each, and one of its own
    os.environ.clear()  # the interpreter has added to the empty environment (PEP 538)
    os.environ.update(boot.environ, HOME=folder, TMPDIR=folder, SB_EXECUTION_ID=str(uuid.uuid4()))
    time.tzset()
    worker = Worker(boot, fds, door, folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(worker.live(early))


class Worker:
    """The process of one function: loads it, serves its connections, drains, ends.

    Args:
        folder: its own, for the files that the function may want to read.
    """

    def __init__(
        self, boot: frames.Boot, fds: list[int], door: Door[frames.ControlFrame], folder: str
    ) -> None:
        self._boot, self._door, self._folder = boot, door, folder
        self._snapshot = fds[0]
        self._marks = Marks(fds[1], os.fstat(fds[1]).st_size)
        self._engine_fd = fds[2] if boot.engine else None
        self.function = boot.function
        self.application: ASGIApp
        self._exports = Exports()
        self._lifespan: Lifespan | None = None
        self._in_flight = 0
        self._links: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._unloading: asyncio.Task[None] | None = None
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
        self._door.send(frames.Loading("import"))
        found = self._exports = exports_of(self._module(), f"{boot.directory}/{boot.entrypoint}")
        if found.startup is not None:
            self._door.send(frames.Loading("startup"))
            await hooks.run(found.startup)
        if found.handler is not None:
            self._threaded = not is_async(found.handler)
            self.application = adapt.from_handler(found.handler, found.websocket, boot.threads)
        else:
            self._lifespan = Lifespan(found.app)
            self._door.send(frames.Loading("lifespan"))
            await self._lifespan.startup()
            self.application = adapt.from_app(found.app, boot.function, self._lifespan.state)

    def _module(self) -> ModuleType:
        boot = self._boot
        size = os.fstat(self._snapshot).st_size
        snapshot = _archive.decode(os.pread(self._snapshot, size, 0))
        os.close(self._snapshot)
        home = files.write(snapshot, boot.directory, self._folder)
        injected = {"ai": runtime.ai}
        return loader.load(snapshot, boot.directory, boot.function, boot.entrypoint, injected, home)

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
            case frames.Unload():
                self._tell_unload(frame.reason)
            case frames.Drain():
                self._spawn(self._drain(frame.seconds, frame.reason))
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

    async def _drain(self, seconds: float, reason: str) -> None:
        """End when nothing is in flight, or when the time is up."""
        if self._draining:
            return
        self._draining = True
        self._tell_unload(reason)
        ends_at = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(ends_at):
                while self._in_flight or self._background:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            self._tell_left(seconds)
        self.leaving = True
        await self._end_lifespan(ends_at, seconds)
        self._door.send(frames.Drained())
        self._over.set()

    async def _end_lifespan(self, ends_at: float, seconds: float) -> None:
        """The application's own shutdown, in what the drain has left of its time."""
        if self._lifespan is None:
            return
        try:
            async with asyncio.timeout_at(max(ends_at, asyncio.get_running_loop().time() + _LAST_S)):
                await self._lifespan.shutdown()
        except TimeoutError:
            logs.emit("warning", f"the application's lifespan shutdown did not end within {seconds:g} s")

    def _tell_unload(self, reason: str) -> None:
        """Call the hook, once; the drain waits for it as for work given to wait_until."""
        hook = self._exports.before_unload
        if hook is None or self._unloading is not None:
            return

        async def unload() -> None:
            try:
                await hooks.run(hook, reason)
            except asyncio.CancelledError:
                if not self.leaving:  # what it waited for was cancelled
                    logs.emit("error", "before_unload was cancelled before its end")
                raise
            except BaseException as error:  # also sys.exit: there are requests to finish
                logs.emit("error", f"before_unload failed\n{self.explain(error)}")

        self._unloading = asyncio.get_running_loop().create_task(unload())
        self._background.add(self._unloading)
        self._unloading.add_done_callback(self._unloaded)

    def _unloaded(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        self._check_idle()

    def _tell_left(self, seconds: float) -> None:
        kept = len(self._background - {self._unloading})
        left = [_counted(self._in_flight, "request"), _counted(kept, "task", " of wait_until")]
        left += ["before_unload"] if self._unloading in self._background else []
        text = " and ".join(filter(None, left))
        logs.emit("warning", f"{text} did not end within {seconds:g} s")


def _counted(number: int, what: str, of: str = "") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}{of}" if number else ""


def _summary(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
