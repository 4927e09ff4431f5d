"""Workers that leave: they get nothing new, finish what they have, and end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from runtime.gateway.logbook import Logbook
from runtime.gateway.worker import Worker

UNLIMITED_S = 3600.0
"""How long a worker may take to leave where `timeout_s` is off."""

_GRACE_S = 1.0  # for ending, after the time that it may take to finish
_BLOCKED = (
    "something blocks its event loop, such as a handler or before_unload, or a thread of it does not end"
)
Part = Callable[[str], None]


class Guests:
    """The WebSockets, which nobody waits for: they may stay open for ever."""

    def __init__(self) -> None:
        self._parts: dict[Part, Worker] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def enter(self, part: Part, worker: Worker) -> None:
        """One begins; `part` closes it, and is told why, when its worker is to leave."""
        self._parts[part] = worker

    def leave(self, part: Part) -> None:
        """One is over."""
        self._parts.pop(part, None)

    def dismiss(self, reason: str, worker: Worker | None = None) -> None:
        """Close those of one worker, or all."""
        for part, host in tuple(self._parts.items()):
            if worker is None or host is worker:
                part(reason)


class Departures:
    """The workers of one pool that leave while others go on.

    A worker is told to end only when it has nothing in flight, so that no request reaches it
    too late; its WebSockets live on until they end, for `seconds` at most.

    Attributes:
        workers: those that leave.
    """

    def __init__(self, seconds: float, guests: Guests, logbook: Logbook) -> None:
        self.workers: list[Worker] = []
        self._seconds, self._guests, self._logbook = seconds, guests, logbook
        self._rested: dict[Worker, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, worker: Worker, reason: str) -> None:
        """See a worker off, if that has not begun."""
        if worker in self._rested:
            return
        if worker not in self.workers:
            self.workers.append(worker)
        rested = self._rested[worker] = asyncio.Event()
        if not worker.in_flight:
            rested.set()
        task = asyncio.get_running_loop().create_task(self._see_off(worker, rested, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def rested(self, worker: Worker) -> None:
        """It has nothing in flight any more."""
        if worker in self._rested:
            self._rested[worker].set()

    def ended(self, worker: Worker) -> bool:
        """It is gone; False: it was not one of those that leave."""
        if worker not in self.workers:
            return False
        self.workers.remove(worker)
        if (rested := self._rested.pop(worker, None)) is not None:
            rested.set()
        return True

    def abandon(self) -> None:
        """See nobody off any more: the pool itself closes."""
        for task in self._tasks:
            task.cancel()

    async def _see_off(self, worker: Worker, rested: asyncio.Event, reason: str) -> None:
        ends_at = time.monotonic() + self._seconds
        worker.forewarn(reason)
        try:
            async with asyncio.timeout(self._seconds):
                await rested.wait()
        except TimeoutError:
            self._guests.dismiss(reason, worker)
        await part([worker], max(ends_at - time.monotonic(), _GRACE_S), reason, self._logbook)


async def part(workers: Sequence[Worker], seconds: float, reason: str, logbook: Logbook) -> None:
    """End workers, after at most `seconds` for what they have; those that do not end are killed."""
    for worker in workers:
        worker.drain(seconds, reason)
    try:
        async with asyncio.timeout(seconds + _GRACE_S):
            await asyncio.gather(*(worker.gone() for worker in workers))
    except TimeoutError:
        for worker in workers:
            _kill_late(worker, seconds, logbook)


def _kill_late(worker: Worker, seconds: float, logbook: Logbook) -> None:
    if worker.lives:
        name = worker.generation.function.name
        text = f"worker {worker.pid} did not end within {seconds:g} s and was killed: {_BLOCKED}"
        logbook.tell(text, level="warning", function=name, worker=worker.pid)
    worker.kill()
