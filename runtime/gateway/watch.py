"""Looking at workers from outside, while they have something to do.

A worker charges its requests itself and cancels those that take too much of the processor.
What it cannot do while its event loop stands still is done here: to notice that, to find
the request whose code does not let go, and to end the worker when it has taken too much.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

from runtime.errors import HostError, WorkerLimit, cpu_exceeded
from runtime.gateway.usage import Excess
from runtime.ledger import Pulse
from runtime.proc import cpu_of

if TYPE_CHECKING:
    from runtime.gateway.responsestream import ResponseStream
    from runtime.gateway.worker import Worker

LOOK_S = 0.05
"""Between looks at workers that do something."""

BLOCKED_S = 1.0
"""How long an event loop may stand still before its worker gets no more requests."""

_IDLE_S = 1.0
_AFTER_S = 1.0  # after its last request, in which a worker may still be doing something for it
_STALLED_S = 0.15  # longer than a live event loop takes from one beat to the next
_OTHERS = "another request took more CPU than it may (cpu_ms)"


class Stillness:
    """For how long an event loop has done nothing.

    Attributes:
        cpu: what its thread had taken when that was first noticed; None: unknown.
    """

    def __init__(self) -> None:
        self._pulse: Pulse | None = None
        self._since = 0.0
        self.cpu: int | None = None

    def seconds(self, at: float, pulse: Pulse, *, expected: bool) -> float:
        """Seconds since this pulse was first seen.

        Args:
            expected: there is something to do; else nothing is what it should do.
        """
        if pulse != self._pulse or not expected:
            self._pulse, self._since, self.cpu = pulse if expected else None, at, None
        return at - self._since


class Burning(NamedTuple):
    """Something that uses the processor.

    Attributes:
        slot: of the request that it is for; -1: for none.
        cost: nanoseconds so far.
        limit: milliseconds that it may take; 0: no limit.
    """

    slot: int
    cost: int
    limit: int


def over(burning: list[Burning]) -> Burning | None:
    """The one that is furthest over its limit."""
    late = [one for one in burning if one.limit and one.cost > one.limit * 1_000_000]
    return max(late, key=lambda one: one.cost - one.limit * 1_000_000, default=None)


class Watch:
    """Looks at every worker, those that do something often.

    Attributes:
        wake: to be called when a worker is given something to do.
    """

    def __init__(self) -> None:
        self._workers: dict[Worker, Stillness] = {}
        self._something = asyncio.Event()
        self.wake = self._something.set  # called for every request

    def add(self, worker: Worker) -> None:
        """Look at it from now on."""
        self._workers[worker] = Stillness()

    def discard(self, worker: Worker) -> None:
        """It is gone."""
        self._workers.pop(worker, None)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            if self.look(time.monotonic()):
                await asyncio.sleep(LOOK_S)
            else:
                await self._rest()

    async def _rest(self) -> None:
        self._something.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S):
                await self._something.wait()

    def look(self, now: float) -> bool:
        """Look once; whether one of them does something."""
        busy = False
        for worker, stillness in tuple(self._workers.items()):
            if not worker.dead:
                busy = self._look_at(worker, stillness, now) or busy
        return busy

    def _look_at(self, worker: Worker, stillness: Stillness, now: float) -> bool:
        pulse = worker.ledger.pulse
        expected = pulse.running >= 0 or (worker.in_flight > 0 and _has_to_do(worker))
        still = stillness.seconds(now, pulse, expected=expected)
        if worker.blocked:
            self._look_at_blocked(worker, still)
        elif still >= BLOCKED_S:
            worker.series.blocked += 1
            worker.block()
        if still > 0 and not worker.dead:
            self._look_at_cpu(worker, stillness, pulse, still)
        busy = worker.in_flight > 0 or expected or worker.blocked or not worker.ready_at
        busy = busy or now - worker.rested_at < _AFTER_S
        if worker.usage is not None and not worker.dead:
            excess = worker.usage.look(now, busy=busy or worker.held > 0)
            worker.memory = worker.usage.memory
            if excess is not None:
                self._stop_greedy(worker, excess)
        return busy

    def _stop_greedy(self, worker: Worker, excess: Excess) -> None:
        """Whose memory or files they are is not known: all its requests are told of the limit."""
        worker.tell("error", f"the worker is over a limit: {excess.found}")
        self._stop(worker, excess.error, "")

    def _look_at_blocked(self, worker: Worker, still: float) -> None:
        """Its stacks are written by now; it goes on, or has stood still for too long."""
        limit = worker.generation.function.limits.timeout_s
        if stacks := worker.stacks():
            text = f"its event loop has been blocked for {BLOCKED_S:g} s and takes no requests meanwhile"
            worker.tell("warning", f"{text}\n{stacks}", _request_id(worker, worker.ledger.pulse.running))
        if still < BLOCKED_S:
            worker.unblock()
        elif limit and still > limit and not worker.leaving:  # one that leaves has its own time limit
            text = f"The function blocked its event loop for more than {limit:g} s (timeout_s)"
            error = WorkerLimit(text, limit="timeout_s")
            self._stop(worker, error, "another request blocked its event loop (timeout_s)")

    def _look_at_cpu(self, worker: Worker, stillness: Stillness, pulse: Pulse, still: float) -> None:
        found = over(_burning(worker, stillness, pulse, still))
        if found is not None:
            self._stop(worker, cpu_exceeded(found.limit), _OTHERS, found.slot)

    def _stop(self, worker: Worker, error: HostError, why: str, slot: int = -1) -> None:
        # Whose code it is may not be known, or its client may have left.
        worker.condemn(error, why, _carried_on(worker, slot), _request_id(worker, slot))


def _has_to_do(worker: Worker) -> bool:
    """It says so, or has not noticed yet; what it has answered may be in flight for long."""
    return worker.ledger.is_beating or any(not stream.accepted for stream in worker.carried())


def _burning(worker: Worker, stillness: Stillness, pulse: Pulse, still: float) -> list[Burning]:
    """What takes the processor, of a worker whose event loop did nothing since the last look."""
    limit = worker.generation.function.limits.cpu_ms
    stalled = still >= _STALLED_S
    if pulse.running < 0 and not stalled:
        return []  # it waits
    burning = []
    cpu = cpu_of(worker.pid, worker.pid)
    if worker.ledger.pulse != pulse:
        return []  # it goes on, and some of that may be of another step
    if cpu is not None and pulse.running >= 0:
        cost = cpu - pulse.since
        burning.append(Burning(pulse.running, cost, _limit(_carried_on(worker, pulse.running), limit)))
    elif cpu is not None:
        stillness.cpu = cpu if stillness.cpu is None else stillness.cpu
        burning.append(_callback(worker, cpu - stillness.cpu, limit))
    if stalled:  # a thread may hold the interpreter's lock
        burning += _threads(worker, limit)
    return burning


def _callback(worker: Worker, cost: int, limit: int) -> Burning:
    """The event loop works, and for no task: whose it is is clear when there is one request alone."""
    begun = [stream for stream in worker.carried() if stream.accepted]
    if len(begun) == 1:
        return Burning(begun[0].slot, cost, _limit(begun[0], limit))
    return Burning(-1, cost, limit)


def _threads(worker: Worker, limit: int) -> list[Burning]:
    burning = []
    for stream in worker.carried():
        thread, since = known = worker.ledger.thread(stream.slot)
        cpu = cpu_of(worker.pid, thread) if thread > 0 else None
        if cpu is not None and worker.ledger.thread(stream.slot) == known:  # else it works for another by now
            burning.append(Burning(stream.slot, cpu - since, _limit(stream, limit)))
    return burning


def _limit(stream: ResponseStream | None, limit: int) -> int:
    own = None if stream is None or stream.head is None else stream.head.cpu_ms
    return limit if own is None else own


def _carried_on(worker: Worker, slot: int) -> ResponseStream | None:
    """What carries the request that is in this slot; work given to `wait_until` only knows its id."""
    if slot != worker.ledger.nobody:
        return worker.carried_on(slot)
    name = worker.ledger.late_name
    for stream in worker.carried():
        if stream.accepted and stream.head is not None and stream.head.request_id == name:
            return stream
    return None


def _request_id(worker: Worker, slot: int) -> str:
    if slot == worker.ledger.nobody:
        return worker.ledger.late_name
    stream = worker.carried_on(slot)
    return "" if stream is None or stream.head is None else stream.head.request_id
