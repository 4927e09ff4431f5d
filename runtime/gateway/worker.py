"""A worker, seen from the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from shutil import rmtree
from typing import Any

import msgspec

from runtime import frames
from runtime.channel import Stream, has_hung_up, open_stream
from runtime.door import Door, socket_pair
from runtime.errors import ChannelClosed, FrameError
from runtime.gateway.engine import Engine
from runtime.gateway.forker import Forker, Process
from runtime.gateway.functionlog import read_pipe
from runtime.gateway.generation import Generation
from runtime.gateway.logbook import Logbook
from runtime.marks import Marks, shared_file

_from_worker = msgspec.msgpack.Decoder(frames.WorkerFrame)
_responses = msgspec.msgpack.Decoder(frames.ResponseFrame)
_THREADS, _CONCURRENCY = 8, 100
_LAST_BREATH_S = 1.0
_LOADING = {
    "import": ": its import does not end",
    "startup": ": its startup() does not end",
    "lifespan": ": the startup of its application's lifespan does not end",
}
_MARKS = 4096  # a page; connections never outnumber the requests in flight at one time


class ResponseStream(Stream[frames.ResponseFrame]):
    """A connection to a worker, of whom nothing is believed.

    Attributes:
        on_accepted: called at once when the worker tells that it has accepted a request.
        on_intrusion: called when the worker sends what no request is there for.
    """

    def __init__(self, marks: Marks, slot: int) -> None:
        super().__init__(_responses)
        self.on_accepted: Callable[[], None] | None = None
        self.on_intrusion: Callable[[], None] = lambda: None
        self._marks, self._slot = marks, slot
        self._busy = False

    @property
    def accepted(self) -> bool:
        """The worker has begun with the request last sent; still right after its death."""
        return self._marks.is_set(self._slot)

    def begin(self, on_accepted: Callable[[], None]) -> None:
        """A new request is about to be sent."""
        self._busy, self.on_accepted = True, on_accepted
        self._marks.clear(self._slot)

    def end(self) -> None:
        """The request has its answer: the next one must not take anything of it for its own."""
        self._busy, self.on_accepted = False, None
        if self._frames:
            self._intruded()

    def arrived(self, frame: frames.ResponseFrame, size: int) -> None:
        if not self._busy:
            self._intruded()
            raise FrameError("a frame came without a request")
        if not isinstance(frame, frames.Accepted):
            super().arrived(frame, size)
        elif self.on_accepted is None:
            raise FrameError("a request was accepted twice")
        else:
            accepted, self.on_accepted = self.on_accepted, None
            accepted()

    def _intruded(self) -> None:
        if not self.lost:
            self.on_intrusion()


class Services(msgspec.Struct, frozen=True):
    """What every worker needs of the gateway.

    Attributes:
        chatty: set once the banner has named what serves, so that from then on changes are told.
    """

    forker: Forker
    engine: Engine
    logbook: Logbook
    root: str
    temp: str
    chatty: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class BootFailure(Exception):
    """A worker did not come up.

    Attributes:
        detail: the traceback, for the log alone.
        crashed: its process ended without saying why.
    """

    def __init__(self, summary: str, detail: str = "", *, crashed: bool = False) -> None:
        super().__init__(summary)
        self.detail, self.crashed = detail, crashed


def file_for_workers(data: bytes, *, constant: bool = False) -> int:
    """As `shared_file`.

    Raises:
        BootFailure: there is no descriptor, or no memory, left.
    """
    try:
        return shared_file(data, constant=constant)
    except OSError as error:
        raise BootFailure(f"it could not be started: {error}") from error


class Worker:
    """One process of a generation.

    Attributes:
        in_flight: requests it has now.
        idle: connections to it that carry none.
    """

    def __init__(self, generation: Generation, slot: int, services: Services) -> None:
        self.generation = generation
        self.concurrency = generation.function.limits.concurrency or _CONCURRENCY
        self.in_flight = 0
        self.served = 0
        self.idle: list[ResponseStream] = []
        self.ready_at = 0.0
        self.boot_ms = 0.0
        self.dead = self._drained = False
        self._loading = ""
        self._slot, self._services = slot, services
        self._marks_file = file_for_workers(bytes(max(_MARKS, 2 * self.concurrency)))
        self._marks = Marks(self._marks_file, os.fstat(self._marks_file).st_size)
        self._slots: list[int] = []
        self._new_slots = itertools.count()
        self._door: Door[frames.WorkerFrame] | None = None
        self._process: Process | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_end: Callable[[Worker, str], None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def free(self) -> bool:
        """It can take one more request."""
        return self.in_flight < self.concurrency and not self.dead

    async def boot(self, archive: int, on_end: Callable[[Worker, str], None]) -> None:
        """Bring the process up; `on_end` is told if it ends after that.

        Raises:
            BootFailure: it ended, said why it cannot start, or took too long.
        """
        began = time.monotonic()
        try:
            await self._come_up(archive)
        except BaseException:
            self.kill()
            raise
        self.ready_at = time.monotonic()
        self.boot_ms = (self.ready_at - began) * 1000
        self._on_end = on_end

    async def _come_up(self, archive: int) -> None:
        limit = self.generation.function.limits.boot_s or None
        try:
            async with asyncio.timeout(limit):
                await self._start(archive)
                await self._ready
                self.idle.append(await self.open())  # so that the first request finds a connection
        except TimeoutError:
            raise BootFailure(f"it was not ready within {limit:g} s (boot_s){self._loading}") from None
        except (OSError, FrameError) as error:
            raise BootFailure(f"it could not be started: {error}") from error
        if self.dead:
            raise BootFailure("its process ended as soon as it was ready", crashed=True)

    async def _start(self, archive: int) -> None:
        services, function = self._services, self.generation.function
        ours, theirs = socket_pair()
        self._door = Door(ours, _from_worker, takes_fds=False)
        engine = services.engine.connect()
        boot = frames.Boot(
            function=function.name,
            generation=self.generation.name,
            directory=self.generation.directory,
            entrypoint=self.generation.entrypoint,
            environ=self.generation.environ,
            models=services.engine.models,
            model_folders=services.root,
            threads=function.limits.concurrency or _THREADS,
            engine=engine is not None,
        )
        fds = [os.dup(archive), os.dup(self._marks_file)] + ([] if engine is None else [engine])
        with theirs:
            self._door.send(boot, fds)  # before the process exists, so that it need not wait for it
            self._door.listen(asyncio.get_running_loop(), self._on_frame, self._on_lost)
            log_reader, log_writer = os.pipe()
            await read_pipe(log_reader, self._on_line)
            self._process = services.forker.fork(function.name, self._slot, [theirs.detach(), log_writer])
        self._process.exited.add_done_callback(lambda exited: self._ended(exited.result()))

    async def open(self) -> ResponseStream:
        """A new connection to it."""
        assert self._door is not None
        ours, theirs = socket_pair()
        slot = self._slots.pop() if self._slots else next(self._new_slots)
        self._door.send(frames.Connect(slot=slot), [theirs.detach()])
        stream = await open_stream(ours, lambda: ResponseStream(self._marks, slot))
        stream.on_lost = lambda: self._slots.append(slot)
        stream.on_intrusion = self.kill
        return stream

    def meet_engine(self) -> None:
        """A new engine is up: lead the worker to it."""
        fd = self._services.engine.connect()
        if fd is not None and self._door is not None:
            self._door.send(frames.EngineAt(self._services.engine.models), [fd])

    def forewarn(self, reason: str) -> None:
        """Tell it that it will have to end; it goes on."""
        if self._door is not None:
            self._door.send(frames.Unload(reason))

    def drain(self, seconds: float, reason: str) -> None:
        """Let it finish what is in flight, then end."""
        if self._door is not None:
            self._door.send(frames.Drain(seconds, reason))

    def has_hung_up(self) -> bool:
        """Its process has ended, also when that was not told yet: then its control socket is closed."""
        return self._door is None or self._door.closed or has_hung_up(self._door.fileno())

    @property
    def lives(self) -> bool:
        """Its process has not ended."""
        return self._process is not None and not self._process.exited.done()

    async def gone(self) -> None:
        """Wait for its end."""
        if self._process is not None:
            await asyncio.shield(self._process.exited)

    def kill(self) -> None:
        """End it now."""
        self.dead = True
        if self._process is not None:
            self._services.forker.kill(self._process)
        if self._door is not None:
            self._door.close(asyncio.get_running_loop())
        for stream in self.idle:
            stream.abort()
        self.idle.clear()
        if self._marks_file >= 0:
            os.close(self._marks_file)
            self._marks_file = -1

    def _on_line(self, level: str, text: str, request_id: str) -> None:
        name = self.generation.function.name
        self._services.logbook.tell(text, level=level, function=name, request_id=request_id, worker=self.pid)

    def _on_frame(self, frame: Any, fds: list[int]) -> None:
        if self._ready.done():
            if (self._drained or not isinstance(frame, frames.Drained)) and not self.dead:
                self.kill()  # it says again what can be said once
            self._drained = True
            return
        match frame:
            case frames.Loading(part):
                self._loading = _LOADING[part]
            case frames.Ready():
                if frame.threaded and self.generation.function.limits.concurrency is None:
                    self.concurrency = _THREADS
                self._ready.set_result(None)
            case frames.BootFailed():
                self._ready.set_exception(BootFailure(frame.message, frame.traceback))

    def _on_lost(self) -> None:
        """Its control socket closed: it is ending, or is made to, whatever its status will be."""
        self.dead = True
        asyncio.get_running_loop().call_later(_LAST_BREATH_S, self.kill)

    def _hear_last_words(self) -> None:
        """Its end may be told before what it said last, why it cannot start, was read."""
        if self._door is not None and not self._door.closed:
            with contextlib.suppress(ChannelClosed, FrameError):
                for frame, fds in self._door.receive():
                    self._on_frame(frame, fds)

    def _ended(self, status: int) -> None:
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        self._hear_last_words()
        self.kill()
        folder = os.path.join(self._services.temp, str(self.pid))
        asyncio.get_running_loop().run_in_executor(None, partial(rmtree, folder, ignore_errors=True))
        if not self._ready.done():
            self._ready.set_exception(BootFailure(f"its process ended while starting ({how})", crashed=True))
        elif self._on_end is not None:
            self._on_end(self, how)
