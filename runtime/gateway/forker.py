"""Asking the supervisor for workers, and learning of their end."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from runtime import frames
from runtime.door import Door


class Process:
    """A worker's process.

    Attributes:
        pid: 0 until it exists.
        doomed: it shall end as soon as it exists.
        exited: resolves to its exit status when it has ended, or could not be made.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.doomed = False
        self.exited: asyncio.Future[int] = loop.create_future()


class Forker:
    """The gateway's side of `Fork`, `Forked`, `Exited` and `Kill`."""

    def __init__(self, door: Door[Any]) -> None:
        self._door = door
        self._tokens = itertools.count(1)
        self._forking: dict[int, Process] = {}
        self._living: dict[int, Process] = {}

    def fork(self, function: str, slot: int, fds: list[int]) -> Process:
        """Ask for a process for `function` that holds `fds` (its control socket and its log)."""
        token, process = next(self._tokens), Process()
        self._forking[token] = process
        self._door.send(frames.Fork(token, function, slot), fds)
        return process

    def kill(self, process: Process) -> None:
        """End a process and what it started: now, or as soon as it exists."""
        process.doomed = True
        if process.pid and not process.exited.done():
            self._door.send(frames.Kill(process.pid))

    def on_forked(self, frame: frames.Forked) -> None:
        process = self._forking.pop(frame.token, None)
        if process is None:
            return
        process.pid = frame.pid
        if not frame.pid:
            process.exited.set_result(1)
            return
        self._living[frame.pid] = process
        if process.doomed:
            self.kill(process)

    def on_exited(self, frame: frames.Exited) -> None:
        process = self._living.pop(frame.pid, None)
        if process is not None and not process.exited.done():
            process.exited.set_result(frame.status)
