"""A control group for each worker, where the system gives us any; else nothing happens here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from runtime.supervisor.cgroup import Groups, Limits, find

_MEGABYTE = 1 << 20
_MARGIN = 1.25
"""The kernel's limit above `memory_mb`: the gateway looks first, and can tell clients what happened."""


class Cells:
    """What process 0 does with the groups of `runtime.supervisor.cgroup`."""

    def __init__(self) -> None:
        self._groups: Groups | None = None
        self._leaving: set[int] = set()

    def open(self, ours: Iterable[int]) -> None:
        """Take the group that we were given, if we were given one.

        Args:
            ours: the processes of this server.
        """
        ours = [*ours]
        found = find(ours)
        if not found.folder:
            return
        groups = Groups(found)
        with contextlib.suppress(OSError):
            groups.open(ours)
            self._groups = groups

    def admit(self, pid: int, memory_mb: int) -> None:
        """Shut a worker in that has started nothing yet. Where that fails, it is one without a cell."""
        self._sweep()
        if self._groups is not None:
            with contextlib.suppress(OSError):
                self._groups.admit(pid, Limits(memory=int(memory_mb * _MEGABYTE * _MARGIN)))

    def kill(self, pid: int) -> bool:
        """End a worker and all that it started; False: it has to be done in another way."""
        return self._groups is not None and self._groups.kill(pid)

    def ended(self, pid: int) -> bool:
        """A worker is gone, and all that it started with it; whether the kernel ended it for its memory."""
        if self._groups is None:
            return False
        for_memory = self._groups.was_out_of_memory(pid)
        self._groups.kill(pid)
        self._leaving.add(pid)
        self._sweep()
        return for_memory

    def close(self) -> None:
        """Everybody is gone: give the group back as it was."""
        if self._groups is not None:
            self._sweep()
            self._groups.close()

    def _sweep(self) -> None:
        """Remove the groups whose last process has ended by now."""
        if self._groups is not None:
            self._leaving = {pid for pid in self._leaving if not self._groups.dismiss(pid)}
