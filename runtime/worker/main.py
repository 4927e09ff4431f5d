"""A worker: one function in a process of its own."""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
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
from runtime.errors import FunctionsError, StartError, WorkerLimit, cpu_exceeded
from runtime.ledger import Ledger
from runtime.worker import adapt, confine, files, hooks, loader, logs
from runtime.worker.accounting import Account, Meter
from runtime.worker.calls import ThreadCall
from runtime.worker.exports import Exports, exports_of, is_async
from runtime.worker.heart import Heart
from runtime.worker.kept import Kept
from runtime.worker.lifespan import Lifespan
from runtime.worker.lingering import Lingering
from runtime.worker.link import Link

_MOST_PER_CORE = 512  # processes and threads of a function's own user, in all its workers
_THREAD_LOOK_S = 0.02
_LAST_S = 0.5  # what a lifespan's shutdown has at least; the gateway waits a little longer
_control = msgspec.msgpack.Decoder(frames.ControlFrame)
_archive = msgspec.msgpack.Decoder(dict[str, bytes])


def run(control: socket.socket, folder: str, *, has_own_user: bool = False) -> int:
    """Live as the function that the gateway names on `control`; the exit status.

    Args:
        folder: the worker's temporary folder.
        has_own_user: nobody but this function's workers runs as our user.
    """
    logs.install()
    door: Door[frames.ControlFrame] = Door(control, _control)
    [(boot, fds), *early] = door.wait()
    assert isinstance(boot, frames.Boot)
    os.environ.clear()  # the interpreter has added to the empty environment (PEP 538)
    os.environ.update(boot.environ, HOME=folder, TMPDIR=folder, SB_EXECUTION_ID=str(uuid.uuid4()))
    time.tzset()
    try:
        confine.apply(_confinement(boot, has_own_user), folder=folder, project=boot.model_folders)
    except StartError as error:
        door.send(frames.BootFailed(str(error)))
        return 1
    faulthandler.enable(2, all_threads=False)  # a segfault says where
    faulthandler.register(process.DUMP, fds[1], all_threads=True)
    worker = Worker(boot, fds, door, folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        worker.meter.install(runner.get_loop())
        runner.get_loop().set_exception_handler(logs.loop_failed)
        return runner.run(worker.live(early))


def _confinement(boot: frames.Boot, has_own_user: bool) -> confine.Confinement:
    return confine.Confinement(
        memory_mb=boot.memory_mb,
        tmp_mb=boot.tmp_mb,
        concurrency=boot.concurrency,
        threads=boot.threads,
        # Numeric libraries take a thread for each core, in each worker, of which there is one for each core.
        # Far more only take longer to end.
        processes=_MOST_PER_CORE * max(2, os.cpu_count() or 1) if has_own_user else 0,
        sandbox=boot.sandbox,
    )


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
        self.meter = Meter(Ledger(fds[1]))
        self.meter.on_exceeded, self.meter.on_resisted = self._exceeded, self._resisted
        self.meter.on_overrun = self._overrun
        self._overrunning: set[ThreadCall] = set()
        self._engine_fd = fds[2] if boot.engine else None
        self.function = boot.function
        self.cpu_ms = boot.cpu_ms
        self.application: ASGIApp
        self._exports = Exports()
        self._lifespan: Lifespan | None = None
        self._in_flight = 0
        self._links: set[asyncio.Task[None]] = set()
        self._kept = Kept(self, self._check_idle)
        self._heart: Heart
        self._lingering = Lingering(self._tell_held, self._tell_spoiled)
        self._unloading: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._over = asyncio.Event()
        self._draining = False
        self.leaving = False
        self._threaded = False

    async def live(self, early: list[tuple[frames.ControlFrame, list[int]]]) -> int:
        """Boot, serve until drained or abandoned."""
        began = time.monotonic()
        self._heart = Heart(self.meter, self._is_busy)
        host = ai_host.install(self._boot.models, self._boot.model_folders)
        host.engine.on_missing = lambda: self._door.send(frames.EngineMissing())
        if self._engine_fd is not None:
            await host.engine.attach(socket.socket(fileno=self._engine_fd))
        try:
            await self._load()
        except BaseException as error:
            self._door.send(self._boot_failed(error))
            return 1
        gc.collect()  # else the next full one waits for a quarter of what the template had
        gc.freeze()
        self._door.send(frames.Ready((time.monotonic() - began) * 1000, self._threaded))
        for frame, fds in early:
            self._on_frame(frame, fds)
        self._door.listen(asyncio.get_running_loop(), self._on_frame, self._over.set)
        await self._over.wait()
        return 0

    def _boot_failed(self, error: BaseException) -> frames.BootFailed:
        summary, trace = _summary(error), self.explain(error)
        if isinstance(error, FunctionsError):  # it says what to do; a traceback would bury that
            line = loader.line_of(error, self._boot.directory)
            trace = f"{summary}\n  in {line}" if line else summary
        if (limit := self.limit_behind(error)) is not None:
            summary, trace = limit.message, f"{trace.rstrip()}\n{limit.message}"
        return frames.BootFailed(summary, trace)

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
        beside = os.path.dirname(f"{boot.directory}/{boot.entrypoint}")
        ai_host.current().settle(beside, boot.directory, home)
        injected = {"ai": runtime.ai}
        return loader.load(snapshot, boot.directory, boot.function, boot.entrypoint, injected, home)

    # what connections need

    def began(self) -> None:
        self._in_flight += 1
        self._heart.start()

    def ended(self) -> None:
        self._in_flight -= 1
        self._check_idle()

    def keep(self, call: Call, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run work that outlives its response; see `runtime.wait_until`."""
        task = self._kept.keep(call, awaitable)
        self._heart.start()
        return task

    def linger(self, call: Call, task: asyncio.Task[Any]) -> None:
        """Work goes on although its request is over; see `Lingering`."""
        self._lingering.add(call, task)

    def _overrun(self, call: ThreadCall) -> None:
        """A thread cannot be cancelled: what is sent here from now on would share the processor with it."""
        name = call.account.name
        self._overrunning.add(call)
        text = f"a thread of request {name} goes on although the request was cancelled (cpu_ms)"
        self._door.send(frames.Spoiled(text, name))
        self._tell_unload("cpu")
        self._look_at_thread(call)

    def _look_at_thread(self, call: ThreadCall) -> None:
        """It is waited for; how long it may take is the gateway's business."""
        if not call.ended:
            asyncio.get_running_loop().call_later(_THREAD_LOOK_S, self._look_at_thread, call)
            return
        self._overrunning.discard(call)
        if not self._overrunning:
            self._door.send(frames.Settled())

    def _exceeded(self, account: Account) -> None:
        error, where = cpu_exceeded(account.limit // 1_000_000), self.meter.where(account)
        logs.emit("error", f"{error.message}\n{where}".rstrip(), account.name)

    def _resisted(self, account: Account) -> None:
        text = f"request {account.name} goes on although it was cancelled (cpu_ms)"
        self._tell_unload("cpu")
        self._door.send(frames.Spoiled(text, account.name))

    def _tell_held(self, count: int) -> None:
        self._door.send(frames.Held(count))

    def _tell_spoiled(self, reason: str) -> None:
        self._tell_unload("wall_clock")
        self._door.send(frames.Spoiled(reason))

    def explain(self, error: BaseException) -> str:
        return loader.traceback_of(error, self._boot.directory)

    def limit_behind(self, error: BaseException) -> WorkerLimit | None:
        return confine.limit_behind(error, memory_mb=self._boot.memory_mb, tmp_mb=self._boot.tmp_mb)

    def _is_busy(self) -> bool:
        return bool(self._in_flight or self._kept or self._is_unloading())

    def _is_unloading(self) -> bool:
        return self._unloading is not None and not self._unloading.done()

    def _check_idle(self) -> None:
        if self._draining and not self._is_busy():
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
        await open_stream(socket.socket(fileno=fd), lambda: Link(self, self.meter, slot))

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
                while self._is_busy():
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

        alone = contextvars.copy_context()
        alone.run(current.set, None)  # else the request whose costs are the reason would pay for it, too
        self._unloading = asyncio.get_running_loop().create_task(unload(), context=alone)
        self._unloading.add_done_callback(lambda done: self._check_idle())
        self._heart.start()

    def _tell_left(self, seconds: float) -> None:
        left = [_counted(self._in_flight, "request"), _counted(len(self._kept), "task", " of wait_until")]
        left += ["before_unload"] if self._is_unloading() else []
        text = " and ".join(filter(None, left))
        logs.emit("warning", f"{text} did not end within {seconds:g} s")


def _counted(number: int, what: str, of: str = "") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}{of}" if number else ""


def _summary(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
