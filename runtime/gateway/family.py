"""A worker and all that it has started, looked at on a thread: that may take long.

How long is in the function's hands: it may have hundreds of processes, thousands of threads
and any number of files. So nothing here is done on the event loop, and each of the things
that take long takes at most a twentieth of the time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from runtime import folders, proc
from runtime.gateway import memoryfiles
from runtime.gateway.memory import Status, parse_status
from runtime.project.settings import Limits

MEGABYTE = 1 << 20
MOST_PROCESSES = 256
"""A worker and what it has started, as far as it lives. Far above what a pool of processes needs."""

_MOST_NUMBERS = 4096  # of those that have ended too: as many as a function's own user may have

_SHARE = 20
_AROUND_S, _FILES_S, _FOLDER_S, _LIMITS_S = 0.1, 5.0, 0.5, 1.0
_CHANGED_FILES_S = 0.5  # where something has run since, which alone can change them
_COUNT_S = 0.02
_counting = ThreadPoolExecutor(1, "counting")


class Found(NamedTuple):
    """What they take.

    Attributes:
        at: when they were looked at (CLOCK_MONOTONIC).
        others: bytes of private memory of the descendants, less what they inherited.
        shared: bytes of memory and files in memory that they share.
        exact: bytes of all memory, each page counted once; None: it was not counted.
        blind: it cannot be counted: we may not look.
        processes: how many of them live.
        ended: how many have ended and wait for their parent, which may never ask for them.
        cpu: milliseconds that they took since they began.
        stop: bytes of private writable address space that the worker may have.
        full: its temporary folder is over its size.
    """

    at: float = 0.0
    others: int = 0
    shared: int = 0
    exact: int | None = None
    blind: bool = False
    processes: int = 1
    ended: int = 0
    cpu: int = 0
    stop: int = proc.UNLIMITED
    full: bool = False


class Pace:
    """When something may be done again that shall take at most a twentieth of the time.

    Args:
        seconds: at least so long after it was done.
        by_processor: the processor's time is what counts, not how long it had to wait for one.
    """

    def __init__(self, seconds: float, *, by_processor: bool = False) -> None:
        self._seconds, self._again_at = seconds, 0.0
        self._by_processor = by_processor

    def is_due(self, *, early: float = 0) -> bool:
        """Whether it is time, `early` seconds before it was to be."""
        return time.monotonic() >= self._again_at - early

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """It is done inside."""
        clock = time.thread_time if self._by_processor else time.monotonic
        began = clock()
        yield
        took = clock() - began
        self._again_at = time.monotonic() + self._seconds + _SHARE * took


class Folder:
    """The size of a worker's temporary folder. Measured twice a second, and sooner when names come or go.

    Args:
        most: bytes that it may hold; 0: any number, and it is never looked at.
    """

    def __init__(self, path: str, most: int) -> None:
        self._path, self._most = path, most
        self._pace = Pace(_FOLDER_S)
        self._changed = 0

    def is_over(self) -> bool:
        """Whether it is measured now, and too large."""
        if not self._most or not self._pace.is_due(early=_FOLDER_S * self._has_changed()):
            return False
        with self._pace.kept():
            return folders.size_of(self._path, stop_at=self._most + 1) > self._most

    def _has_changed(self) -> bool:
        try:
            changed = os.stat(self._path).st_mtime_ns
        except OSError:
            return False
        before, self._changed = self._changed, changed
        return changed != before


class _Member(NamedTuple):
    """A process.

    Attributes:
        program: the same in who forked it, and another once it has become another program.
        inherited: bytes of private memory that it shares with who forked it.
    """

    stat: proc.Stat
    status: Status
    program: tuple[int, int]
    inherited: int


class Family:
    """Looks at one worker's processes and folder. For one thread at a time.

    Args:
        pid: the worker.
        folder: its temporary folder.
        inherited: bytes of private memory that it shares with the template.

    Attributes:
        sharers: the living workers of its function, itself included.
    """

    def __init__(self, pid: int, folder: str, limits: Limits, inherited: int) -> None:
        self._pid, self._own = pid, inherited
        self.sharers = 1
        self._memory = limits.memory_mb * MEGABYTE
        self._folder = Folder(folder, limits.tmp_mb * MEGABYTE)
        self._members: dict[int, _Member] = {}
        self._file_bytes, self._blind, self._stop = 0, False, proc.UNLIMITED
        self._state: list[tuple[int, Status]] = []
        self.pace = Pace(_AROUND_S, by_processor=True)  # they may be many that want it
        self._count: Future[int | None] | None = None
        self._exact, self._files, self._limited = Pace(0), Pace(_FILES_S), Pace(_LIMITS_S)

    def look(self) -> Found | None:
        """Look at them all; None: the worker is gone."""
        now = time.monotonic()
        with self.pace.kept():  # what may take longer keeps a pace of its own
            living, ended = self._everybody()
            if len(living) > MOST_PROCESSES:
                return Found(at=now, processes=len(living))
            self._meet(living)
        leader = self._members.get(self._pid)
        if leader is None:
            return None
        self._look_into_files(leader.status.user)
        members = self._members.values()
        return Found(
            at=now,
            others=sum(max(member.status.anonymous - member.inherited, 0) for member in members)
            - max(leader.status.anonymous - leader.inherited, 0),
            shared=max(self._file_bytes, *(member.status.shared for member in members)),
            exact=self._exactly() if self._may_be_over() else None,
            blind=self._blind,
            processes=len(living),
            ended=len(ended),
            cpu=sum(member.stat.cpu for member in members) + sum(stat.cpu for stat in ended),
            stop=self._data_limit(),
            full=self._folder.is_over(),
        )

    def _everybody(self) -> tuple[list[int], list[proc.Stat]]:
        """Those that live, parents first, and those that have ended; no more than there may be."""
        living, ended = [self._pid], []
        for number, pid in enumerate(proc.descendants(self._pid)):
            stat = proc.stat(pid)
            if stat is None:
                continue
            if stat.ended and number < _MOST_NUMBERS:
                ended.append(stat)
            else:
                living.append(pid)
            if len(living) > MOST_PROCESSES:
                break
        return living, ended

    def _meet(self, pids: list[int]) -> None:
        """Read all, parents first."""
        before, self._members = self._members, {}
        for pid in pids:
            # The owner before the memory: one that becomes another program between the two has little then.
            stat, owner = proc.stat(pid), _owner(pid)
            text = proc.read(f"/proc/{pid}/status")
            if stat is None or not text:
                continue
            status, program = parse_status(text), (stat.stack, owner)
            known = before.get(pid)
            if pid == self._pid:
                inherited = self._own
            elif known is None or known.stat.started != stat.started:
                inherited = self._inherited(stat, status, program)
            else:
                inherited = known.inherited if known.program == program else 0
            self._members[pid] = _Member(stat, status, program, inherited)

    def _inherited(self, stat: proc.Stat, status: Status, program: tuple[int, int]) -> int:
        """What a new one shares with its parent, as far as it is a fork and no program of its own."""
        parent = self._members.get(stat.parent) or self._members.get(self._pid)
        if parent is None or parent.program != program:
            return 0
        return min(status.anonymous, parent.status.anonymous)

    def _look_into_files(self, user: int) -> None:
        state = [(member.stat.cpu, member.status) for member in self._members.values()]
        early = _FILES_S - _CHANGED_FILES_S if state != self._state else 0
        if user and self._memory and self._files.is_due(early=early):
            self._state = state
            with self._files.kept():
                stop = self._memory + 1
                self._file_bytes = memoryfiles.size([*self._members], user, stop, self.sharers)

    def _may_be_over(self) -> bool:
        """More than one, and all that they have, as if they shared nothing, is too much."""
        members = self._members.values()
        most = sum(member.status.anonymous for member in members) + self._file_bytes
        most += max(member.status.shared for member in members)
        return 0 < self._memory < most and len(members) > 1 and not self._blind

    def _exactly(self) -> int | None:
        """Memory to the page, counting once what they share; None: not yet.

        Not waited for: who looks at the memory of a process that forks is kept waiting by it, in
        a crowd for seconds, and looking at how many they are may not wait.
        """
        if self._count is None:
            if not self._exact.is_due():
                return None
            self._count = _counting.submit(self._count_pages, [*self._members])
        try:
            counted = self._count.result(_COUNT_S)
        except TimeoutError:
            return None
        self._count = None
        return counted

    def _count_pages(self, pids: list[int]) -> int | None:
        """Forty times as expensive as all the rest. What all workers inherit counts in equal shares."""
        private = shared = 0
        with self._exact.kept():
            for pid in pids:
                try:
                    text = proc.read_or_raise(f"/proc/{pid}/smaps_rollup")
                except PermissionError:
                    self._blind = True
                    return None
                except (FileNotFoundError, ProcessLookupError):
                    continue
                except OSError:  # we have no descriptor, or no memory, left: another time
                    return None
                private += proc.kilobytes(text, b"\nPss_Anon:")
                shared += proc.kilobytes(text, b"\nPss_Shmem:")
                if private > self._memory:
                    break
        return private + max(shared, self._file_bytes)

    def _data_limit(self) -> int:
        if self._limited.is_due():
            with self._limited.kept():
                self._stop = proc.data_limit(self._pid)
        return self._stop


def _owner(pid: int) -> int:
    """Whose it is to look into: root's, if it hides its memory as workers and forks do; -1: gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1
