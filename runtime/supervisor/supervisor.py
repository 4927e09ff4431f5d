"""Process 0: owns the listening socket and every other process, and does nothing else.

It is single-threaded and has no event loop, imports next to nothing, and touches no
request: so it has no reason to fail. It starts the engine, the template and the gateway,
passes descriptors between them, starts again what dies, reaps everything (it is a
subreaper and safe as PID 1) and on a signal ends everybody in order.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from runtime import folders, frames
from runtime.door import Door, close_all, socket_pair
from runtime.errors import ChannelClosed, FrameError
from runtime.process import DUMP, adopt_orphans, hide_memory, name_process
from runtime.sharedfile import shared_file
from runtime.supervisor import proctable, users
from runtime.supervisor.backoff import Backoff
from runtime.supervisor.cells import Cells
from runtime.supervisor.plan import Plan

CHILD_FD = 3
_GRACE_S = 3.0  # on top of the plan's shutdown_s, before everything is killed
_STRAYS_S = 0.02  # from a worker's end to a look at what it left
_LEAVING_S = 0.5  # from a child's closing its door to its end
_DUMP_S = 0.05  # what writing a worker's stacks may take, before it is killed
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Child:
    """One of the three processes that are always there."""

    def __init__(self, role: str, module: str, decoder: Any, environ: dict[str, str]) -> None:
        self.role, self.module, self.environ = role, module, environ
        self.decoder = decoder
        self.backoff = Backoff()
        self.pid = 0
        self.door: Door[Any] | None = None
        self.started = 0.0
        self.restarts = -1

    def spawn(self) -> Door[Any]:
        """Start the process in a session of its own, holding one end of a new door.

        Raises:
            OSError: there are too many processes, or there is too little memory.
        """
        ours, theirs = socket_pair()
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-m", self.module, "--fd", str(CHILD_FD)],
                self.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), CHILD_FD)],
                setsid=True,
                setsigmask=[],
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.door = Door(ours, self.decoder)
        self.started = time.monotonic()
        self.restarts += 1
        return self.door

    def send(self, frame: Any, fds: list[int] | None = None) -> None:
        """Send a frame, if the process is there to read it."""
        if self.door is None:
            for fd in fds or ():
                os.close(fd)
        else:
            self.door.send(frame, fds or ())


def _decoder(union: Any) -> Any:
    return msgspec.msgpack.Decoder(union)


class Supervisor:
    """The process tree.

    Args:
        plan: what the command line decided.
        temp: the server's temporary folder, removed at the end.
        keeper: a descriptor that becomes readable when the keeper is gone.
    """

    def __init__(self, plan: Plan, temp: str, keeper: int) -> None:
        self._plan, self._temp, self._keeper = plan, temp, keeper
        self._sockets = [socket.socket(fileno=fd) for fd in plan.sockets]
        environ = dict(os.environ)
        self._gateway = Child("gateway", "runtime.gateway", _decoder(frames.GatewayToSupervisor), environ)
        self._engine = Child("engine", "runtime.engine", _decoder(frames.Ready), environ)
        self._template = Child(
            "template", "runtime.worker.template", _decoder(frames.TemplateToSupervisor), {}
        )
        self._children = (self._engine, self._template, self._gateway)
        self._workers: set[int] = set()
        self._cells = Cells()
        self._departed: dict[int, int] = {}  # ended before the template told us their pid
        self._forks: dict[int, tuple[frames.Fork, list[int]]] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._selector = selectors.DefaultSelector()
        self._project: int | None = None  # as the gateway last knew it, for the next one
        self._looks = False  # for strays, soon
        self._exit_code = 0
        self._stopping = False
        self._done = False

    # life

    def run(self) -> int:
        """Serve until told to stop; the exit status."""
        name_process("fn-supervisor")
        hide_memory()
        adopt_orphans()
        self._cells.open((os.getpid(), os.getppid()))
        self._selector.register(self._keeper, selectors.EVENT_READ, self._on_keeper_lost)
        with self._signals():
            try:
                for child in self._children:
                    self._start(child)
                while not self._done:
                    self._turn()
            finally:
                self._end_everything()
        return self._exit_code

    def _turn(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self._timers if timer[0] <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for _, action in due:
            action()
        if self._done:
            return
        for child in self._children:
            self._watch_writable(child)
        wait = min((timer[0] - now for timer in self._timers), default=None)
        for key, _ in self._selector.select(None if wait is None else max(wait, 0)):
            key.data()

    def _watch_writable(self, child: Child) -> None:
        if child.door is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.door.pending else 0)
            if self._selector.get_key(child.door).events != events:
                self._selector.modify(child.door, events, lambda: self._on_door(child))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers.append((time.monotonic() + seconds, action))

    # children

    def _start(self, child: Child) -> None:
        if self._stopping:
            return
        try:
            door = child.spawn()
        except OSError as error:  # those that there are go on meanwhile
            self._log(f"{child.role} cannot be started ({error.strerror}); trying again")
            self._later(child.backoff.delay(0), lambda: self._start(child))
            return
        self._selector.register(door, selectors.EVENT_READ, lambda: self._on_door(child))
        if child is self._gateway:
            self._introduce_gateway()
        elif child is self._template:
            boot = frames.TemplateBoot(temp=self._temp, uid_base=self._plan.uid_base, users=users.COUNT)
            door.send(boot)
            for fork, fds in self._forks.values():
                door.send(fork, [os.dup(fd) for fd in fds])
        else:
            door.send(
                frames.EngineBoot(
                    root=self._plan.root,
                    models_dir=self._plan.models_dir,
                    preload=list(self._plan.preload),
                    threads=self._plan.engine_threads,
                    providers=list(self._plan.engine_providers),
                    models_bytes=self._plan.models_bytes,
                    precisions=self._plan.precisions,
                )
            )
            if self._gateway.door is not None:
                self._connect_engine()

    def _introduce_gateway(self) -> None:
        plan = frames.GatewayPlan(self._plan.options, self._plan.environ)
        boot = frames.GatewayBoot(
            restarts=self._gateway.restarts,
            color=self._plan.color,
            temp=self._temp,
            kept=self._project is not None,
        )
        # In files, since an environment may be longer than a frame.
        files = [shared_file(msgspec.msgpack.encode(plan))]
        if self._project is not None:
            files.append(os.dup(self._project))
        self._gateway.send(boot, files + [os.dup(listener.fileno()) for listener in self._sockets])
        self._connect_engine()

    def _keep(self, project: int) -> None:
        if self._project is not None:
            os.close(self._project)
        self._project = project

    def _connect_engine(self) -> None:
        """Give gateway and engine a connection to one another."""
        if self._engine.door is None:
            return
        for_gateway, for_engine = socket_pair()
        self._engine.send(frames.Connect("gateway"), [for_engine.detach()])
        self._gateway.send(frames.EngineDoor(), [for_gateway.detach()])

    def _on_door(self, child: Child) -> None:
        door = child.door
        if door is None:
            return
        door.flush()
        try:
            arrived = door.receive()
        except (ChannelClosed, FrameError):
            self._drop_door(child)
            return
        for frame, fds in arrived:
            self._on_frame(frame, fds)

    def _drop_door(self, child: Child) -> None:
        if child.door is not None:
            self._selector.unregister(child.door)
            child.door.close()
            child.door = None
            pid = child.pid
            self._later(_LEAVING_S, lambda: self._end_mute(child, pid))

    def _end_mute(self, child: Child, pid: int) -> None:
        """Without its door it is of no use; if it was ending by itself, it has told its status by now."""
        if child.pid == pid:
            proctable.kill(pid)

    def _on_frame(self, frame: Any, fds: list[int]) -> None:
        if not isinstance(frame, frames.Fork | frames.Keep | frames.Connect):
            close_all(fds)
        match frame:
            case frames.Fork():
                self._forks[frame.token] = (frame, fds)
                self._template.send(frame, [os.dup(fd) for fd in fds])
            case frames.Forked():
                self._on_forked(frame)
            case frames.Kill(pid, dump):
                if dump:
                    self._dump_worker(pid)
                    self._later(_DUMP_S, lambda: self._kill_worker(pid))
                else:
                    self._kill_worker(pid)
            case frames.Dump(pid):
                self._dump_worker(pid)
            case frames.Keep():
                self._keep(fds[0])
            case frames.Connect():
                self._engine.send(frame, fds)
            case frames.Stopped():
                _tell(frame.message)
                self._exit_code = frame.code
                self._done = True
            case _:
                pass

    # workers

    def _on_forked(self, forked: frames.Forked) -> None:
        fork, fds = self._forks.pop(forked.token, (None, []))
        for fd in fds:
            os.close(fd)
        lives = forked.pid and forked.pid not in self._departed
        if lives and fork is not None:
            self._cells.admit(forked.pid, fork.memory_mb)  # before it is told what to become
        self._gateway.send(forked)
        if lives:
            self._workers.add(forked.pid)
        elif forked.pid:
            self._gateway.send(frames.Exited(forked.pid, self._departed.pop(forked.pid)))
        if not self._forks:
            self._departed.clear()  # they were strays, and their numbers will be given to others

    def _dump_worker(self, pid: int) -> None:
        if pid in self._workers:
            proctable.kill(pid, DUMP)

    def _kill_worker(self, pid: int) -> None:
        if pid in self._workers and not self._cells.kill(pid):
            proctable.end(lambda: proctable.families_of([pid]))

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, raw = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._on_exit(pid, os.waitstatus_to_exitcode(raw))

    def _on_exit(self, pid: int, status: int) -> None:
        for child in self._children:
            if child.pid == pid:
                self._on_child_exit(child, status)
                return
        if pid in self._workers:
            self._workers.discard(pid)
            self._gateway.send(frames.Exited(pid, status, self._cells.ended(pid)))
            self._look_for_strays()
        else:
            if self._forks:
                self._departed[pid] = status
            self._look_for_strays()  # it may have been one, and had others

    def _look_for_strays(self) -> None:
        if not self._looks:  # once for all workers that end in the same moment
            self._looks = True
            self._later(_STRAYS_S, self._end_strays)

    def _end_strays(self) -> None:
        """End what dead workers left behind: it has become ours.

        Every child of ours is known but for workers whose `Forked` is still on its way.
        """
        self._looks = False
        if self._forks:
            self._look_for_strays()
            return
        known = self._workers | {child.pid for child in self._children}
        proctable.end_strays(os.getpid(), known)

    def _on_child_exit(self, child: Child, status: int) -> None:
        self._drop_door(child)
        child.pid = 0
        if child is self._gateway:
            self._end_workers()
            if self._stopping:
                self._done = True
                return
        if self._stopping:
            return
        delay = child.backoff.delay(time.monotonic() - child.started)
        when = f" in {delay:g} s" if delay else ""
        self._log(f"{child.role} ended ({_describe(status)}); starting it again{when}")
        self._later(delay, lambda: self._start(child))

    def _end_workers(self) -> None:
        """Without their gateway workers have nothing to answer to."""
        for pid in list(self._workers):
            self._kill_worker(pid)
        for _, fds in self._forks.values():
            for fd in fds:
                os.close(fd)
        self._forks.clear()
        self._departed.clear()

    # signals and the end

    @contextlib.contextmanager
    def _signals(self) -> Any:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._selector.register(reader, selectors.EVENT_READ, lambda: self._on_signals(reader.recv(4096)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # the keeper held them back until now
        try:
            yield
        finally:
            self._selector.unregister(reader)
            signal.set_wakeup_fd(previous)
            for number, handler in before.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            elif self._stopping and number == signal.SIGINT:
                self._done = True  # a second Ctrl-C: the person does not want to wait
            else:
                self._drain()

    def _drain(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        for listener in self._sockets:
            listener.close()
        self._gateway.send(frames.Drain(self._plan.shutdown_s, "shutdown"))
        self._later(self._plan.shutdown_s + _GRACE_S, self._give_up)
        if self._gateway.pid == 0:
            self._done = True

    def _on_keeper_lost(self) -> None:
        """Somebody killed the process that people know as the server: it shall be gone."""
        self._exit_code, self._done = 1, True

    def _give_up(self) -> None:
        self._log("some requests did not end in time; stopping anyway", to_gateway=False)
        self._done = True

    def _log(self, message: str, *, to_gateway: bool = True) -> None:
        """A line of the server's log, which the gateway writes; without it standard error has to do."""
        if to_gateway and self._gateway.door is not None:
            self._gateway.send(frames.Told("warning", message))
        else:
            _tell(_line(message, as_json=self._plan.log_json))

    def _end_everything(self) -> None:
        self._stopping = True
        self._end_workers()
        for child in self._children:
            if child.pid:
                proctable.kill(child.pid)
        proctable.end_descendants()
        self._cells.close()
        folders.remove(self._temp)


def _describe(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    return signal.Signals(-status).name


def _line(message: str, *, as_json: bool) -> str:
    """A warning as the gateway would write it."""
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if as_json:
        return msgspec.json.encode({"time": stamp, "level": "warning", "message": message}).decode()
    return f"{stamp} WARNING {message}"


def _tell(message: str) -> None:
    """Say something on standard error, if anybody reads it: process 0 must not wait or die for that."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{message}\n".encode(errors="replace")[: select.PIPE_BUF])
