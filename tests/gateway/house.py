"""The rest of the house, played on the test's own event loop: a supervisor and its workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from runtime import frames
from runtime.channel import Stream, open_stream
from runtime.door import Door, socket_pair
from runtime.errors import ChannelClosed
from runtime.gateway.engine import Engine
from runtime.gateway.forker import Forker
from runtime.gateway.generation import Generation
from runtime.gateway.logbook import Logbook
from runtime.gateway.pool import Pool
from runtime.gateway.services import Services
from runtime.ledger import Ledger
from runtime.project.settings import Function, Limits

_TO_GATEWAY = msgspec.msgpack.Decoder(frames.SupervisorToGateway)
_TO_SUPERVISOR = msgspec.msgpack.Decoder(frames.GatewayToSupervisor)
_CONTROL = msgspec.msgpack.Decoder(frames.ControlFrame)
_REQUESTS = msgspec.msgpack.Decoder(frames.RequestFrame)
PATIENCE_S = 10.0


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it is the state that is awaited, whoever sets it
            await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Let the loop turn a few times: whatever was about to happen has happened."""
    for _ in range(count):
        await asyncio.sleep(0)


def generation(
    name: str = "g1", *, function: str = "hello", oneshot: bool = False, **limits: Any
) -> Generation:
    """What a worker is booted from; with no more workers than `min_workers` unless told otherwise."""
    limits.setdefault("max_workers", max(limits.get("min_workers", 1), 1))
    if oneshot:
        limits["concurrency"] = 1
    settings = Function(name=function, directory=f"/functions/{function}", limits=Limits(**limits))
    return Generation(
        name=name,
        function=settings,
        archive=msgspec.msgpack.encode({f"{function}/index.py": name.encode()}),
        directory="/functions",
        entrypoint=f"{function}/index.py",
        environ={"NAME": name},
        oneshot=oneshot,
    )


class Link(Stream[frames.RequestFrame]):
    """A connection as a worker has it: `serve` is called with every head."""

    def __init__(self, worker: PlayedWorker, slot: int) -> None:
        super().__init__(_REQUESTS)
        self.worker, self.slot = worker, slot

    def arrived(self, frame: frames.RequestFrame, size: int) -> None:
        if isinstance(frame, frames.Head):
            self.worker.heads.append(frame)
            task = self._loop.create_task(self._serve(frame))
            self.worker.tasks.add(task)
            task.add_done_callback(self.worker.tasks.discard)
        else:
            super().arrived(frame, size)

    async def _serve(self, head: frames.Head) -> None:
        with contextlib.suppress(ChannelClosed):
            await self.worker.house.serve(self, head)
        if head.kind == "websocket":
            self.close()

    def accept(self) -> None:
        """Begin with the request."""
        self.mark()
        self.send(frames.Accepted())

    def mark(self) -> None:
        """Begin with the request, and come no further than the mark."""
        self.worker.ledger.begin(self.slot)

    def answer(self, data: bytes = b"", status: int = 200) -> None:
        """Accept the request and answer it whole."""
        self.accept()
        self.send(frames.Start(status, [(b"content-type", b"text/plain")]), frames.Body(data))


class PlayedWorker:
    """A worker's process, as the gateway sees it."""

    def __init__(self, house: House, pid: int, control: int, log: int) -> None:
        self.house, self.pid, self.log = house, pid, log
        self.alive = True
        self.boot: frames.Boot | None = None
        self.archive = b""
        self.ledger: Ledger
        self.heads: list[frames.Head] = []
        self.links: list[Link] = []
        self.drains: list[frames.Drain] = []
        self.farewells: list[frames.Unload | frames.Drain] = []
        self.engines: list[frames.EngineAt] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.door: Door[frames.ControlFrame] = Door(socket.socket(fileno=control), _CONTROL)
        self.door.listen(asyncio.get_running_loop(), self._on_frame, lambda: None)

    def _on_frame(self, frame: frames.ControlFrame, fds: list[int]) -> None:
        match frame:
            case frames.Boot():
                self._booting(frame, fds)
            case frames.Connect(slot=slot):
                self._spawn(self._connect(fds[0], slot))
            case frames.Unload():
                self.farewells.append(frame)
            case frames.Drain():
                self.drains.append(frame)
                self.farewells.append(frame)
                self.house.on_drain(self)
            case frames.EngineAt():
                os.close(fds[0])
                self.engines.append(frame)

    def _booting(self, boot: frames.Boot, fds: list[int]) -> None:
        self.boot = boot
        self.archive = os.pread(fds[0], 1 << 20, 0)
        self.ledger = Ledger(fds[1])
        for fd in fds:
            os.close(fd)
        self.house.on_boot(self)

    async def _connect(self, fd: int, slot: int) -> None:
        self.links.append(await open_stream(socket.socket(fileno=fd), lambda: Link(self, slot)))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def ready(self, **fields: Any) -> None:
        self.door.send(frames.Ready(1.0, **fields))

    def fail(self, message: str, traceback: str = "") -> None:
        """Say that the function cannot be loaded, and end."""
        self.door.send(frames.BootFailed(message, traceback))
        self.die(1)

    def print(self, data: bytes) -> None:
        os.write(self.log, data)

    def die(self, status: int = -9) -> None:
        """End, and have the supervisor tell."""
        if not self.alive:
            return
        self.alive = False
        for link in self.links:
            link.abort()
        for task in self.tasks:
            task.cancel()
        self.door.close(asyncio.get_running_loop())
        os.close(self.log)
        self.house.supervisor.send(frames.Exited(self.pid, status))


class House:
    """Supervisor, template and workers.

    Attributes:
        on_boot: what a worker does when it is told what to become.
        on_drain: what it does when it shall leave.
        serve: how it answers a request.
        refuses: no process can be made.
        told: what was logged, in the plain look.
        kills: pids that the gateway wanted to end.
        dumps: pids whose stacks it wanted to see.
    """

    def __init__(self) -> None:
        ours, theirs = socket_pair()
        loop = asyncio.get_running_loop()
        self.workers: list[PlayedWorker] = []
        self.forks: list[frames.Fork] = []
        self.kills: list[int] = []
        self.dumps: list[int] = []
        self.connects = 0
        self.told: list[str] = []
        self.refuses = False
        self.on_boot: Callable[[PlayedWorker], Any] = lambda worker: worker.ready()
        self.on_drain: Callable[[PlayedWorker], Any] = lambda worker: worker.die(0)
        self.serve: Callable[[Link, frames.Head], Awaitable[None]] = self._answer
        self.door: Door[Any] = Door(ours, _TO_GATEWAY)
        self.supervisor: Door[Any] = Door(theirs, _TO_SUPERVISOR)
        self.forker = Forker(self.door)
        self.failed_models: list[tuple[str, str]] = []
        self.logbook = Logbook("plain", self.told.append)
        self.engine = Engine(
            self.door,
            lambda: None,
            lambda name, why: self.failed_models.append((name, why)),
            lambda told: self.logbook.tell(told.message, level=told.level),
        )
        self.services = Services(self.forker, self.engine, self.logbook, root="/project", temp="/nowhere")
        self.door.listen(loop, self._to_gateway, lambda: None)
        self.supervisor.listen(loop, self._to_supervisor, lambda: None)

    @property
    def living(self) -> list[PlayedWorker]:
        return [worker for worker in self.workers if worker.alive]

    @property
    def log(self) -> str:
        return "\n".join(self.told)

    @staticmethod
    async def _answer(link: Link, head: frames.Head) -> None:
        link.answer(head.path.encode())

    def _to_gateway(self, frame: Any, fds: list[int]) -> None:
        match frame:
            case frames.Forked():
                self.forker.on_forked(frame)
            case frames.Exited():
                self.forker.on_exited(frame)

    def _to_supervisor(self, frame: Any, fds: list[int]) -> None:
        match frame:
            case frames.Fork():
                self._fork(frame, fds)
            case frames.Dump(pid):
                self.dumps.append(pid)
            case frames.Kill(pid):
                self.kills.append(pid)
                next(worker for worker in self.workers if worker.pid == pid).die(-9)
            case frames.Connect():
                self.connects += 1
                os.close(fds[0])

    def _fork(self, frame: frames.Fork, fds: list[int]) -> None:
        self.forks.append(frame)
        if self.refuses:
            for fd in fds:
                os.close(fd)
            self.supervisor.send(frames.Forked(frame.token, 0, "no more processes"))
            return
        pid = 1000 + len(self.forks)
        self.supervisor.send(frames.Forked(frame.token, pid))
        self.workers.append(PlayedWorker(self, pid, fds[0], fds[1]))

    async def close(self) -> None:
        """End everything that is left."""
        for member in tuple(self.services.budget.members):
            assert isinstance(member, Pool)
            await member.close(-1, "test")  # at once
        self.refuses = True
        for worker in self.living:
            worker.die()
        await turns(60)
        loop = asyncio.get_running_loop()
        self.door.close(loop)
        self.supervisor.close(loop)
        await turns()
