"""What one worker takes of the machine, against what its function may take.

Looked at from outside, several times a second: nothing in a worker is asked, so nothing in it
can lie or be too busy to answer. Behind it stand the hard stops of `runtime.worker.confine`.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from runtime.errors import WorkerLimit, memory_exceeded, storage_exceeded
from runtime.gateway import memoryfiles
from runtime.gateway.family import MEGABYTE, MOST_PROCESSES, Family, Found
from runtime.gateway.memory import Meter, Status
from runtime.project.settings import Limits

__all__ = ["MEGABYTE", "MOST_PROCESSES", "Excess", "Usage"]

_OFTEN_S, _SELDOM_S, _IDLE_S = 0.045, 0.09, 2.9
_HEADROOM = 4 * MEGABYTE  # less than a thread's stack
_QUARTER = 4
_measuring = ThreadPoolExecutor(2, "measuring")
_removing = ThreadPoolExecutor(1, "removing")  # who goes on writing there must not keep the others unmeasured
_living: set[Usage] = set()


class Excess(NamedTuple):
    """A limit that a worker is over.

    Attributes:
        error: for its clients; names the limit's key.
        found: what it had, for the log.
    """

    error: WorkerLimit
    found: str


class Usage:
    """Memory, processes, idle processor time and temporary folder of one worker.

    Args:
        pid: the worker, which has not begun with anything of its own.
        folder: its temporary folder.

    Attributes:
        memory: bytes that it and its descendants had taken when last looked at.
        ended: descendants that have ended and wait to be asked for.
    """

    def __init__(self, pid: int, folder: str, limits: Limits) -> None:
        self._limits = limits
        self._most = limits.memory_mb * MEGABYTE
        self._meter = Meter(pid)
        self._family = Family(pid, folder, limits, self._meter.inherited)
        self._background = Background(limits.cpu_ms)
        self._own, self._found = Status(0, 0, 0), Found()
        self._looking: Future[Found | None] | None = None
        self._sampled_at = 0.0
        self._greedy = False
        self.memory = self.ended = 0
        _living.add(self)

    def look(self, now: float, *, busy: bool) -> Excess | None:
        """Look at it, and say which limit it is over; some microseconds.

        Its own memory is read here; the rest is found on a thread, and judged when it arrives.

        Args:
            now: seconds of the monotonic clock.
            busy: it has requests, or work that they left; else it is looked at every three seconds.
        """
        if busy:
            self._background.pause()
        news = self._collect()
        due = now - self._sampled_at >= self._interval(busy=busy)
        if due:
            self._sampled_at = now
            own = self._meter.sample()
            if own is None:
                return None
            self._own = own
            if self._looking is None and self._family.pace.is_due():
                self._family.sharers = self._sharers()
                self._looking = _measuring.submit(self._family.look)
        if news is None and not due:
            return None
        self.memory = self._own.anonymous + self._found.others + max(self._own.shared, self._found.shared)
        return self._over_memory(news) or self._over_others(news, busy=busy)

    def _sharers(self) -> int:
        """How many workers run as its user. What no user has to itself is not shared."""
        user = self._own.user
        if not memoryfiles.is_other(user):
            return 1
        return max(sum(other._own.user == user for other in _living), 1)

    def _interval(self, *, busy: bool) -> float:
        if not busy:
            return _IDLE_S
        return _OFTEN_S if 0 < self._most < 2 * self.memory else _SELDOM_S

    def _collect(self) -> Found | None:
        """What the thread has found since it was asked last."""
        if self._looking is None or not self._looking.done():
            return None
        found, self._looking = self._looking.result(), None
        self._found = found or self._found
        self.ended = self._found.ended
        return found

    def _over_memory(self, news: Found | None) -> Excess | None:
        if not self._most:
            return None
        own = self._own.anonymous + max(self._own.shared, self._found.shared)
        had = self._had(self.memory)
        if own > self._most:
            return self._memory_excess(had)
        if self._found.blind or self._found.processes == 1:
            if self.memory > self._most:
                return self._memory_excess(had)
        elif news is not None and news.exact is not None and news.exact > self._most:
            # Forks that share memory may have been counted twice, or not at all.
            return self._memory_excess(self._had(news.exact))
        if self._own.data > self._found.stop - _HEADROOM:
            # The kernel gives it next to nothing more (RLIMIT_DATA): whatever it does next may fail,
            # its own event loop included.
            found = f"it had reserved all that it can have, and {_mb(self.memory)} MB in use"
            return self._memory_excess(found)
        return None

    def _had(self, size: int) -> str:
        """Counting stops at the limit: what is next to it may be anything beyond."""
        limit = self._limits.memory_mb
        return f"it had {f'more than {limit}' if _mb(size) <= limit else _mb(size)} MB of memory"

    def _memory_excess(self, found: str) -> Excess:
        self._greedy = True
        memoryfiles.doom(self._own.user)
        limit = self._limits.memory_mb
        return Excess(memory_exceeded(limit), f"{found}; memory_mb is {limit}")

    def _over_others(self, news: Found | None, *, busy: bool) -> Excess | None:
        if news is None:
            return None
        if news.processes > MOST_PROCESSES:
            error = WorkerLimit(f"The function ran more than {MOST_PROCESSES} processes in one worker")
            return Excess(error, f"it ran more than the {MOST_PROCESSES} processes that it may run")
        if news.full:
            limit = self._limits.tmp_mb
            found = f"its temporary folder held more than the {limit} MB that tmp_mb allows"
            return Excess(storage_exceeded(limit), found)
        return None if busy else self._background.look(news.at, news.cpu)

    def close(self) -> None:
        """It has ended. What its user has left in memory goes, unless others of its workers may need it."""
        _living.discard(self)
        self._meter.close()
        user = self._own.user
        alone = not any(other._own.user in (user, 0) for other in _living)
        if user and memoryfiles.is_other(user) and (self._greedy or alone):
            memoryfiles.doom(user)
            _removing.submit(memoryfiles.remove, user)


class Background:
    """Processor time that no request accounts for: of threads and processes that outlive theirs.

    A quarter of a core may go on for ever; beyond that there is `cpu_ms`. So what runs beside
    the requests and takes little is left alone, and what spins is found after a while.

    Args:
        limit: `cpu_ms`; 0: no limit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._level = 0.0
        self._last: tuple[float, int] | None = None

    def pause(self) -> None:
        """There is a request: what is taken now is its."""
        self._last = None

    def look(self, at: float, cpu: int) -> Excess | None:
        """Judge.

        Args:
            at: seconds of the monotonic clock.
            cpu: milliseconds that the worker and its descendants had taken by then.
        """
        last, self._last = self._last, (at, cpu)
        if last is None or not self._limit:
            return None
        self._level += max(cpu - last[1], 0) - 1000 * (at - last[0]) / _QUARTER
        self._level = max(self._level, 0)
        if self._level <= self._limit:
            return None
        text = f"The function's worker took more than {self._limit} ms of CPU without a request (cpu_ms)"
        found = f"without a request it took {self._level:.0f} ms of CPU beyond a quarter of a core"
        return Excess(WorkerLimit(text, limit="cpu_ms"), f"{found}; cpu_ms is {self._limit}")


def _mb(size: int) -> int:
    return round(size / MEGABYTE)
