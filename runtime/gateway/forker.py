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
        forked: resolves to its pid when it exists, or to 0: it could not be made.
        refused: why it could not be made.
        out_of_memory: the kernel has ended it for that.
        exited: resolves to its exit status when it has ended, or could not be made.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.refused = ""
        self.doomed = self.out_of_memory = False
        self.forked: asyncio.Future[int] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()


class Forker:
    """The gateway's side of `Fork`, `Forked`, `Exited` and `Kill`."""

    def __init__(self, door: Door[Any]) -> None:
        self._door = door
        self._tokens = itertools.count(1)
        self._forking: dict[int, Process] = {}
        self._living: dict[int, Process] = {}

    def fork(self, function: str, slot: int, fds: list[int], memory_mb: int = 0) -> Process:
        """Ask for a process for `function` that holds `fds` (its control socket and its log)."""
        token, process = next(self._tokens), Process()
        self._forking[token] = process
        self._door.send(frames.Fork(token, function, slot, memory_mb), fds)
        return process

    def kill(self, process: Process, *, dump: bool = False) -> None:
        """End a process and what it started: now, or as soon as it exists.

        Args:
            dump: let it write its stacks first.
        """
        process.doomed = True
        if process.pid and not process.exited.done():
            self._door.send(frames.Kill(process.pid, dump))

    def dump(self, process: Process) -> None:
        """Have a process write its stacks."""
        if process.pid and not process.exited.done():
            self._door.send(frames.Dump(process.pid))

    def on_forked(self, frame: frames.Forked) -> None:
        process = self._forking.pop(frame.token, None)
        if process is None:
            return
        process.pid, process.refused = frame.pid, frame.message
        if not process.forked.done():  # else who waited for it was cancelled
            process.forked.set_result(frame.pid)
        if not frame.pid:
            process.exited.set_result(1)
            return
        self._living[frame.pid] = process
        if process.doomed:
            self.kill(process)

    def on_exited(self, frame: frames.Exited) -> None:
        process = self._living.pop(frame.pid, None)
        if process is not None and not process.exited.done():
            process.out_of_memory = frame.out_of_memory
            process.exited.set_result(frame.status)
