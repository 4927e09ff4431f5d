"""The gateway's process."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import time
from typing import Any, NamedTuple

import msgspec
import uvloop

from runtime import folders, frames, process
from runtime.door import Door
from runtime.errors import UsageError
from runtime.gateway import server
from runtime.gateway.app import Gateway
from runtime.gateway.auth import Authenticator
from runtime.gateway.banner import banner
from runtime.gateway.cors import CorsMiddleware
from runtime.gateway.engine import Engine
from runtime.gateway.forker import Forker
from runtime.gateway.guard import guarded
from runtime.gateway.internal import Internal
from runtime.gateway.jwks import JwksSource
from runtime.gateway.logbook import Logbook, Look
from runtime.gateway.outlet import Outlet
from runtime.gateway.registry import Registry
from runtime.gateway.reload import file_saves, is_watched, project_saves
from runtime.gateway.services import Services
from runtime.project import static
from runtime.project.load import load
from runtime.project.settings import Keys, Options, Project
from runtime.sharedfile import shared_file

_CATALOG_WAIT_S = 5.0
_LOOK_S = 1.0  # between looks at workers that may be old, large or idle
_LAST_S = 1.0  # what workers have at least to end, when requests took all the time of a shutdown
_GC_THRESHOLDS = 20_000, 20, 50  # requests leave few cycles; looking for them at every few costs 5 %

_decoder = msgspec.msgpack.Decoder(frames.SupervisorToGateway)


class Start(NamedTuple):
    """What the supervisor gives a gateway, and what it makes of it.

    Attributes:
        mistake: why the project on disk is unreadable, and an older one is served; empty: it is not.
    """

    boot: frames.GatewayBoot
    options: Options
    environ: dict[str, str]
    project: Project
    mistake: str
    listener: socket.socket


def main(fd: int) -> int:
    """Serve until the supervisor says to stop; the exit status."""
    process.become("gateway")
    door: Door[Any] = Door(socket.socket(fileno=fd), _decoder)
    [(boot, fds), *early] = door.wait()
    assert isinstance(boot, frames.GatewayBoot)
    try:
        start = _start(boot, fds)
    except UsageError as error:
        door.send(frames.Stopped(f"error: {error}", error.exit_code))
        return error.exit_code
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Main(door, start).run(early))


def _start(boot: frames.GatewayBoot, fds: list[int]) -> Start:
    """Read the project; where that is impossible, take the one that an earlier gateway served.

    Raises:
        UsageError: it is unreadable, and there was none before.
    """
    plan = msgspec.msgpack.decode(_content(fds[0]), type=frames.GatewayPlan)
    kept = msgspec.msgpack.decode(_content(fds[1]), type=Project) if boot.kept else None
    listener = socket.socket(fileno=fds[2 if boot.kept else 1])
    options = msgspec.json.decode(plan.options, type=Options)
    try:
        return Start(boot, options, plan.environ, load(options, plan.environ), "", listener)
    except UsageError as error:
        if kept is None:
            raise
        return Start(boot, options, plan.environ, kept, str(error), listener)


def _content(fd: int) -> bytes:
    """Everything in a shared file, wherever its offset stands; closes it."""
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


class Main:
    """Wires the gateway's parts together and follows the project's files."""

    def __init__(self, door: Door[Any], start: Start) -> None:
        project = start.project
        self._door, self._start, self._project = door, start, project
        self._listener = start.listener
        host, port = server.address(start.listener)
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        self._base = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
        self._port = port
        self._outlet = Outlet(1)
        self._logbook = Logbook(_look(project, start.boot), self._outlet.write)
        self._forker = Forker(door)
        self._engine = Engine(door, self._meet_engine, self._model_failed, self._engine_told)
        self._services = Services(
            self._forker, self._engine, self._logbook, project.settings.root, start.boot.temp
        )
        self._registry = Registry(self._services, project.settings.url or self._base)
        self._registry.expect(project)
        self._jwks = _jwks(project.keys)
        self._authenticator = Authenticator(project.keys, project.settings.auth, self._jwks)
        internal = Internal(self._registry, self._authenticator, self._awaited, self._engine.warm.is_set)
        self._gateway = Gateway(
            project.settings, self._registry, self._authenticator, internal, self._logbook
        )
        self._server: server.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reloading = asyncio.Lock()
        self._ends_at = 0.0  # seconds of the monotonic clock; set when it is to stop

    async def run(self, early: list[tuple[Any, list[int]]]) -> int:
        """Serve until drained."""
        loop = asyncio.get_running_loop()
        for frame, fds in early:
            self._on_frame(frame, fds)
        self._door.listen(loop, self._on_frame, lambda: os._exit(1))
        settings = self._project.settings
        gc.freeze()  # what exists now lives as long as the process
        gc.set_threshold(*_GC_THRESHOLDS)
        app = CorsMiddleware(self._gateway, settings.cors, self._gateway.forwards_preflight)
        room = server.room_for_clients(process.raise_file_limit())
        protocol = guarded(settings.max_head_kb * 1024, settings.head_s, self._refused, settings.cors, room)
        self._server = server.make(app, settings, protocol)
        self._server.should_exit = self._gateway.draining  # told to stop before it began
        self._door.send(frames.Up(self._port))
        self._keep()
        if self._start.mistake:
            self._tell_mistake(self._start.mistake)
        await asyncio.to_thread(_clear, self._start.boot.temp)
        # Clients wait in the listening socket's queue: who came in now would find no function.
        await self._read_functions()
        self._spawn(self._say_when_ready())
        self._spawn(self._services.watch.run())
        self._spawn(self._look_after_workers())
        await self._server.serve(sockets=[self._listener])
        await self._registry.close(self._left_to_end(settings.shutdown_s), "termination")
        self._outlet.close()
        return 0

    def _left_to_end(self, seconds: float) -> float:
        """What workers get of `shutdown_s`, which requests may have used: it counts once for both."""
        return min(seconds, max(self._ends_at + _LAST_S - time.monotonic(), _LAST_S))

    def _watch_files(self) -> None:
        settings = self._project.settings
        self._spawn(self._follow_files())
        if settings.env_file is not None and not is_watched(settings.root, settings.env_file):
            self._spawn(self._follow_env_file(settings.env_file))

    async def _say_when_ready(self) -> None:
        await self._registry.settled()
        await self._engine.warm.wait()
        if self._start.boot.restarts:
            self._logbook.tell("the gateway is back")
        else:
            names = self._engine.preloaded
            self._logbook.raw(banner(self._project, self._registry, self._base, names))
        self._services.chatty.set()

    async def _look_after_workers(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._registry.look()

    async def _read_functions(self) -> None:
        """Functions are told which models there are, so the engine is asked first.

        What is saved meanwhile waits for its turn: the first reading must not undo a later one.
        """
        async with self._reloading:
            self._watch_files()
            try:
                async with asyncio.timeout(_CATALOG_WAIT_S):
                    await self._engine.known.wait()
            except TimeoutError:
                text = "the engine does not answer; functions start without models"
                self._logbook.tell(text, level="warning")
            await self._registry.apply(self._project)

    async def _follow_files(self) -> None:
        async for _ in project_saves(self._project.settings.root, self._static_places, self._warn):
            await self._reload()

    def _warn(self, text: str) -> None:
        self._logbook.tell(text, level="warning")

    def _static_places(self) -> dict[str, bool]:
        return static.places(self._project.functions.values())

    async def _follow_env_file(self, path: str) -> None:
        async for _ in file_saves(path, self._warn):
            await self._reload()

    async def _reload(self) -> None:
        async with self._reloading:
            await self._reload_once()

    async def _reload_once(self) -> None:
        try:
            project = await asyncio.to_thread(load, self._start.options, self._start.environ)
        except UsageError as error:
            self._tell_mistake(str(error))
            return
        before, self._project = self._project, project
        self._keep()
        for note in project.notes:
            if note not in before.notes:
                self._logbook.tell(note, level="warning")
        if (project.keys, project.settings.auth) != (before.keys, before.settings.auth):
            self._jwks = _jwks(project.keys)
            self._authenticator.replace(project.keys, project.settings.auth, self._jwks)
        self._gateway.configure(project.settings)
        await self._registry.apply(project)

    def _tell_mistake(self, mistake: str) -> None:
        self._logbook.tell(f"{mistake}\n→ the previous configuration stays in force", level="error")

    def _keep(self) -> None:
        """Leave the project with the supervisor, for the next gateway."""
        self._door.send(frames.Keep(), [shared_file(msgspec.msgpack.encode(self._project))])

    def _on_frame(self, frame: Any, fds: list[int]) -> None:
        match frame:
            case frames.Forked():
                self._forker.on_forked(frame)
            case frames.Exited():
                self._forker.on_exited(frame)
            case frames.EngineDoor():
                self._engine.arrive(fds[0])
            case frames.Told(level, message):
                self._logbook.tell(message, level=level)
            case frames.Drain():
                self._drain()
            case _:
                raise AssertionError(f"a gateway is no place for {type(frame).__name__}")

    def _drain(self) -> None:
        self._gateway.draining = True
        self._ends_at = time.monotonic() + self._project.settings.shutdown_s
        self._logbook.tell("shutting down: finishing what is in flight")
        self._registry.forewarn("termination")
        if self._server is not None:
            self._server.should_exit = True

    def _meet_engine(self) -> None:
        self._logbook.tell("the engine is back", level="warning")
        self._registry.meet_engine()

    def _model_failed(self, name: str, message: str) -> None:
        self._logbook.tell(f"model {name}: {message}", level="error")

    def _engine_told(self, told: frames.Told) -> None:
        self._logbook.tell(f"the engine: {told.message}", level=told.level)

    def _refused(self, status: int) -> None:
        self._logbook.tell(f"refused a request head with status {status}", level="warning")

    def _awaited(self) -> list[str]:
        """What the server is not ready without."""
        if not self._engine.known.is_set():
            return ["the engine"]
        awaited = [d.name for d in self._registry.deployments if not d.settled.is_set()]
        return awaited if self._engine.warm.is_set() else [*awaited, "the models"]

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run work beside the server; its failure ends the gateway, which is started again."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            sys.excepthook(type(error), error, error.__traceback__)
            os._exit(1)


def _look(project: Project, boot: frames.GatewayBoot) -> Look:
    if project.settings.log_format == "auto":
        return "color" if boot.color else "plain"
    return project.settings.log_format


def _clear(temp: str) -> None:
    """Remove the folders of workers that went with the gateway before this one."""
    for entry in os.scandir(temp):
        folders.remove(entry.path)


def _jwks(keys: Keys) -> JwksSource | None:
    if keys.jwks is None and keys.jwks_url is None:
        return None
    return JwksSource(keys.jwks_url, keys.jwks)
