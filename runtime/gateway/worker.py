"""A worker, seen from the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from runtime import folders, frames
from runtime.channel import has_hung_up, open_stream
from runtime.door import Door, close_all, socket_pair
from runtime.errors import ChannelClosed, FrameError, HostError, WorkerError
from runtime.gateway import bootclock, stacks
from runtime.gateway.chatter import Chatter
from runtime.gateway.forker import Process
from runtime.gateway.functionlog import read_pipe
from runtime.gateway.generation import Generation
from runtime.gateway.metrics import Series
from runtime.gateway.responsestream import ResponseStream
from runtime.gateway.services import Services
from runtime.gateway.usage import Usage
from runtime.ledger import Ledger, new_file
from runtime.sharedfile import shared_file

_from_worker = msgspec.msgpack.Decoder(frames.WorkerFrame)
_THREADS, _CONCURRENCY = 8, 100
_LAST_BREATH_S = 1.0
_SEEN_S = 0.001  # by when what is written to the ledger is seen by its other side
_SPOILED_S = 1.0  # what the other requests of a worker have that cannot be used any longer
_LOADING = {
    "import": ": its import does not end",
    "startup": ": its startup() does not end",
    "lifespan": ": the startup of its application's lifespan does not end",
}
_CONNECTIONS = 4096  # more than there are requests in flight at one time; their memory is taken when used
_RESTING = 64  # slots that wait before they are used again: the worker may not know yet that they are free
_ENGINES = 64  # connections to the engine that it gets because it has lost one


T = TypeVar("T")


class BootFailure(Exception):
    """A worker did not come up.

    Attributes:
        detail: the traceback, for the log alone.
        crashed: its process ended without saying why.
    """

    def __init__(self, summary: str, detail: str = "", *, crashed: bool = False) -> None:
        super().__init__(summary)
        self.detail, self.crashed = detail, crashed


def file_for_workers(archive: bytes) -> int:
    """A generation's files, for its workers.

    Raises:
        BootFailure: there is no descriptor, or no memory, left.
    """
    return _made(lambda: shared_file(archive, constant=True))


def _made(make: Callable[[], T]) -> T:
    """What takes descriptors or memory, of which there may be none left."""
    try:
        return make()
    except OSError as error:
        raise BootFailure(f"it could not be started: {error}") from error


class Worker:
    """One process of a generation.

    Attributes:
        in_flight: requests it has now.
        rested_at: when the last of them ended (CLOCK_MONOTONIC).
        memory: bytes that it and its descendants had taken when they were last looked at.
        first_memory: the same when it was new; 0: unknown.
        worn: another is there in its place, or it was told to end, so it gets no more requests.
        held: places that the work of former requests still takes.
        spoiled: it gets no more requests.
        blocked: its event loop stands still, so it gets none for now.
        leaving: it was told to end.
        ledger: what it is doing.
        on_room: called when a place has become free by itself, or none will any more.
        on_settled: called when it need not be ended any more, although it gets no requests.
        on_blocked: called when its event loop is found to stand still.
        idle: connections to it that carry none.
        usage: what it takes; None: there is no process yet.
        series: its function's numbers.
    """

    def __init__(self, generation: Generation, slot: int, services: Services, series: Series) -> None:
        self.generation, self.series = generation, series
        self.concurrency = generation.function.limits.concurrency or _CONCURRENCY
        self.in_flight = self.held = 0
        self.served = 0
        self.spoiled = self.blocked = self.leaving = self.worn = False
        self._chatter = Chatter()
        self._engines = 0
        self.on_room: Callable[[], None] = _nothing
        self.on_settled: Callable[[], None] = _nothing
        self.on_blocked: Callable[[], None] = _nothing
        self.idle: list[ResponseStream] = []
        self.ready_at = self.rested_at = 0.0
        self.memory = self.first_memory = 0
        self.boot_ms = 0.0
        self.dead = self._drained = self._is_over = False
        self._loading = ""
        self._slot, self._services = slot, services
        self._ledger_file = _made(lambda: new_file(max(_CONNECTIONS, 2 * self.concurrency) + _RESTING))
        try:
            self.ledger = _made(lambda: Ledger(self._ledger_file))
        except BootFailure:
            os.close(self._ledger_file)
            raise
        self._streams: dict[int, ResponseStream] = {}
        self._ending: asyncio.TimerHandle | None = None  # the moment that it has, once it is spoiled
        self._obituary = "", ""  # why it was stopped, and the request that is to blame
        self._slots: deque[int] = deque()
        self._new_slots = itertools.count()
        self._door: Door[frames.WorkerFrame] | None = None
        self._process: Process | None = None
        self.usage: Usage | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_end: Callable[[Worker, str], None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def _folder(self) -> str:
        return os.path.join(self._services.temp, str(self.pid))

    @property
    def free(self) -> bool:
        """It can take one more request."""
        return not (
            self.in_flight + self.held >= self.concurrency
            or self.dead
            or self.spoiled
            or self.blocked
            or self.worn
        )

    @property
    def unburied(self) -> int:
        """Processes of it that have ended and that it has not asked for."""
        return 0 if self.usage is None else self.usage.ended

    @property
    def may_recover(self) -> bool:
        """It is spoiled, and has a moment before it is ended for that."""
        return self._ending is not None

    @property
    def used(self) -> bool:
        """It has had a request."""
        return self.served > 0 or self.in_flight > 0

    async def boot(self, archive: int, on_end: Callable[[Worker, str], None]) -> None:
        """Bring the process up; `on_end` is told if it ends after that.

        Raises:
            BootFailure: it ended, said why it cannot start, or took too long.
        """
        began = time.monotonic()
        try:
            await self._come_up(archive)
        except BaseException:
            self._ready.cancel()  # nobody waits for it any more
            self.kill()
            if self._process is None:
                self._forget()
            raise
        self.ready_at = time.monotonic()
        self.boot_ms = (self.ready_at - began) * 1000
        self._on_end = on_end
        self._services.watch.add(self)

    async def _come_up(self, archive: int) -> None:
        limit = self.generation.function.limits.boot_s
        try:
            async with bootclock.limited(limit, lambda: self.pid):
                await self._start(archive)
                await self._ready
                self.idle.append(await self.open())  # so that the first request finds a connection
        except TimeoutError:
            raise BootFailure(f"it was not ready within {limit:g} s (boot_s){self._loading}") from None
        except (OSError, FrameError) as error:
            raise BootFailure(f"it could not be started: {error}") from error
        if self.dead:
            raise BootFailure("its process ended as soon as it was ready", crashed=True)
        if self.usage is not None:
            excess = self.usage.look(time.monotonic(), busy=True)
            self.memory = self.first_memory = self.usage.memory
            if excess is not None:
                raise BootFailure(f"{excess.error.message} before its first request")

    async def _start(self, archive: int) -> None:
        services, function = self._services, self.generation.function
        ours, theirs = socket_pair()
        self._door = Door(ours, _from_worker, takes_fds=False)
        with theirs:
            self._door.listen(asyncio.get_running_loop(), self._on_frame, self._on_lost)
            log_reader, log_writer = os.pipe()
            fds = [theirs.detach(), log_writer]
            memory_mb = function.limits.memory_mb
            self._process = services.forker.fork(function.name, self._slot, fds, memory_mb)
        self._process.exited.add_done_callback(lambda exited: self._ended(exited.result()))
        await read_pipe(log_reader, self._on_line)
        if await self._process.forked and self.lives:
            self.usage = Usage(self.pid, self._folder, function.limits)
            self._tell_boot(archive)  # only now: what it takes from here on is its own

    def _tell_boot(self, archive: int) -> None:
        services, function = self._services, self.generation.function
        fds = self._endowment(archive)
        boot = frames.Boot(
            function=function.name,
            generation=self.generation.name,
            directory=self.generation.directory,
            entrypoint=self.generation.entrypoint,
            environ=self.generation.environ,
            models=services.engine.models,
            model_folders=services.root,
            threads=function.limits.concurrency or _THREADS,
            engine=len(fds) > 2,
            cpu_ms=function.limits.cpu_ms,
            concurrency=self.concurrency,
            memory_mb=function.limits.memory_mb,
            tmp_mb=function.limits.tmp_mb,
            sandbox=function.limits.sandbox,
        )
        assert self._door is not None
        self._door.send(boot, fds)

    def _endowment(self, archive: int) -> list[int]:
        """Descriptors that it is booted with: of its files, its ledger and, if there is one, the engine."""
        fds: list[int] = []
        try:
            fds.append(os.dup(archive))
            fds.append(os.dup(self._ledger_file))
            engine = self._services.engine.connect()
        except OSError:
            close_all(fds)
            raise
        return fds if engine is None else [*fds, engine]

    async def open(self) -> ResponseStream:
        """A new connection to it."""
        assert self._door is not None
        ours, theirs = socket_pair()
        slot = self._slots.popleft() if len(self._slots) > _RESTING else next(self._new_slots)
        self._door.send(frames.Connect(slot=slot), [theirs.detach()])
        return await open_stream(ours, lambda: self._stream(slot))

    def _stream(self, slot: int) -> ResponseStream:
        ledger = None if self._is_over else self.ledger
        stream = self._streams[slot] = ResponseStream(ledger, slot, self._services.watch.wake)
        stream.on_lost = lambda: self._lost(slot)
        stream.on_intrusion = lambda: self.kill("it sent something that no request was there for")
        return stream

    def _lost(self, slot: int) -> None:
        self._streams.pop(slot).settle()
        self._slots.append(slot)

    def carried(self) -> list[ResponseStream]:
        """Its connections that carry a request or a WebSocket."""
        return [stream for stream in self._streams.values() if stream.head is not None]

    def carried_on(self, slot: int) -> ResponseStream | None:
        """The connection of this slot, if it carries a request that was begun."""
        stream = self._streams.get(slot)
        return stream if stream is not None and stream.head is not None and stream.accepted else None

    def take_back(self) -> None:
        """Let others have the requests that it was sent and has not begun with."""
        for stream in self.carried():
            if not stream.accepted:
                stream.withdraw()
                asyncio.get_running_loop().call_later(_SEEN_S, stream.take_back)

    def meet_engine(self) -> bool:
        """An engine is up: lead the worker to it. Whether there is one."""
        fd = self._services.engine.connect()
        if fd is not None and self._door is not None:
            self._door.send(frames.EngineAt(self._services.engine.models), [fd])
        return fd is not None

    def _find_engine(self) -> None:
        """It has lost its connection to the engine, which lives: each that it gets costs that something."""
        self._engines += self.meet_engine()
        if self._engines > _ENGINES and not self.dead:
            self.kill("it loses its connection to the engine again and again")

    def forewarn(self, reason: str) -> None:
        """Tell it that it will have to end; it goes on."""
        if self._door is not None:
            self._door.send(frames.Unload(reason))

    def drain(self, seconds: float, reason: str) -> None:
        """Let it finish what is in flight, then end."""
        self.leaving = self.worn = True
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

    def kill(self, why: str = "") -> None:
        """End it now.

        Args:
            why: for the log; empty: it ends anyway, or that was told.
        """
        if why and not self.dead:
            self.tell("error", f"the worker is ended: {why}")
        self.dead = True
        if self._process is not None:
            self._services.forker.kill(self._process)
        if self._door is not None:
            self._door.close(asyncio.get_running_loop())
        for stream in self.idle:
            stream.abort()
        self.idle.clear()
        if self._ledger_file >= 0:
            os.close(self._ledger_file)
            self._ledger_file = -1

    # limits

    def condemn(
        self, error: HostError, why: str = "", culprit: ResponseStream | None = None, request_id: str = ""
    ) -> None:
        """End it for a limit: its stacks go to the log, and nobody waits for its death.

        Requests that it has begun are answered at once; the others get another worker.

        Args:
            error: answers the request that is to blame, and the others too if there is no `why`.
            why: what the others are told, such as "another request took more CPU than it may".
            culprit: the connection of the request that is to blame; None: there is none, or no more.
            request_id: of that request, for the log.
        """
        if self.dead:
            return
        self.dead = self.spoiled = True
        self.series.stopped(error.limit)
        self._obituary = error.message, request_id
        others = WorkerError(f"The function's worker was stopped: {why}")
        for stream in self.carried():
            stream.sentence = others if why and stream is not culprit else error
            if stream.accepted:
                stream.abort()  # of the rest it is known after its death alone
        if self._process is not None:
            self._services.forker.kill(self._process, dump=True)
        self.on_room()

    def block(self) -> None:
        """Its event loop stands still: have it say where."""
        self.blocked = True
        if self._process is not None:
            self._services.forker.dump(self._process)
        self.on_blocked()

    def unblock(self) -> None:
        """Its event loop goes on."""
        self.blocked = False
        self.on_room()

    def tell(self, level: str, text: str, request_id: str = "") -> None:
        """Write into the log of its function."""
        self._on_line(level, text, request_id)

    def stacks(self) -> str:
        """What it has written of its stacks, as far as it is the function's; empty: nothing."""
        written = self.ledger.stacks()
        if written and self._ledger_file >= 0:
            self.ledger.forget_stacks(self._ledger_file)
        return stacks.theirs(written, self.generation.directory)

    def _on_line(self, level: str, text: str, request_id: str) -> None:
        name = self.generation.function.name
        self._services.logbook.tell(text, level=level, function=name, request_id=request_id, worker=self.pid)

    def _on_frame(self, frame: Any, fds: list[int]) -> None:
        if self._ready.done():
            if isinstance(frame, frames.Held | frames.Spoiled | frames.Settled | frames.EngineMissing):
                self._on_state(frame)
                return
            if (self._drained or not isinstance(frame, frames.Drained)) and not self.dead:
                self.kill(f"it said again what is said once ({type(frame).__name__})")
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
            case frames.EngineMissing():
                self._find_engine()

    def _on_state(self, frame: frames.Held | frames.Spoiled | frames.Settled | frames.EngineMissing) -> None:
        if self._chatter.is_too_much(self.served, self.in_flight):
            self.kill("it tells of its state more often than its requests explain")
        elif isinstance(frame, frames.Held):
            self.held = min(max(frame.count, 0), self.concurrency)
        elif isinstance(frame, frames.Settled):
            self._settle()
        elif isinstance(frame, frames.EngineMissing):
            self._find_engine()
        elif self._ending is None and not self.dead:
            self._spoil(frame)
        self.on_room()

    def _spoil(self, frame: frames.Spoiled) -> None:
        """Give it no more requests, and end it; those that it has get a moment."""
        self.spoiled = True
        self._on_line("error", f"the worker is replaced: {frame.reason}", frame.request_id)
        self._ending = asyncio.get_running_loop().call_later(_SPOILED_S, self._end_spoiled, frame)

    def _settle(self) -> None:
        """What spoiled it is over in time: it has as long as others to leave."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
            self.on_settled()

    def _end_spoiled(self, frame: frames.Spoiled) -> None:
        if not self.dead:
            self.series.restarts += 1
            why = "what another request left behind in it could not be ended"
            self.condemn(WorkerError(frame.reason), why, request_id=frame.request_id)

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

    def _tell_obituary(self) -> None:
        text, request_id = self._obituary
        if text:
            self._on_line("error", f"the worker was stopped: {text}\n{self.stacks()}".rstrip(), request_id)

    def _ended(self, status: int) -> None:
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        if self._process is not None and self._process.out_of_memory:
            how = "out of memory: memory_mb"
            if not self.spoiled:
                self.series.stopped("memory_mb")
        self._hear_last_words()
        self._tell_obituary()
        self.kill()
        self._services.watch.discard(self)
        if self.usage is not None:
            self.usage.close()
        asyncio.get_running_loop().run_in_executor(None, folders.remove, self._folder)
        if not self._ready.done():
            stopped, _ = self._obituary
            stopped = stopped or (self._process.refused if self._process is not None else "")
            told = stopped or f"its process ended while starting ({how})"
            self._ready.set_exception(BootFailure(told, crashed=not stopped))
        elif self._on_end is not None:
            self._on_end(self, how)
        self._forget()

    def _forget(self) -> None:
        """It is over: let go of what it shared with its process, and of all who know it."""
        for stream in self._streams.values():
            stream.settle()
        self._is_over = True
        self.ledger.close()
        self.on_room = self.on_settled = self.on_blocked = _nothing
        self._on_end = None


def _nothing() -> None:
    """For those who need not be told."""
