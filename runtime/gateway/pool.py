"""The workers of one generation, and the queue before them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from runtime.errors import BootError, ShuttingDown
from runtime.gateway import departures, scaling
from runtime.gateway.cradle import Cradle
from runtime.gateway.crashes import Crashes
from runtime.gateway.deadlines import Clocks
from runtime.gateway.departures import UNLIMITED_S, Departures, Guests, Part
from runtime.gateway.generation import Generation
from runtime.gateway.metrics import Series
from runtime.gateway.renewals import Renewals
from runtime.gateway.responsestream import ResponseStream
from runtime.gateway.scaling import PATIENCE_S, Demand, Holding
from runtime.gateway.services import Services
from runtime.gateway.waiting import Ticket, Waiting, no_room, queue_full
from runtime.gateway.wear import CPU, EARLY_DROP, MEMORY, Wear
from runtime.gateway.worker import BootFailure, Worker

State = Literal["booting", "ready", "failing", "failed", "draining"]


class Pool:
    """Hands out the slots of its workers, first come, first served, and keeps enough of them.

    `min_workers` are always there. More come, up to `max_workers`, when requests wait for a
    slot, and leave when they have had nothing to do for a while. One that is too old, has
    served enough or has grown too large leaves when another is ready in its place. With
    `policy = "oneshot"` each of them serves one request.

    Attributes:
        series: where its boots and losses are counted: the function's numbers.
        proven: it has had a worker that was ready.
        last_error: why the last boot failed, for the log and for operators.
        clocks: the function's time limits.
    """

    def __init__(
        self, generation: Generation, slot: int, services: Services, series: Series | None = None
    ) -> None:
        self.generation, self.series = generation, series or Series()
        self.workers: list[Worker] = []
        self.last_error = self._last_end = ""
        self.proven = False
        self.on_failure: Callable[[BootFailure], None] = lambda failure: None
        self._state: State = "booting"
        self._services = services
        self._limits = limits = generation.function.limits
        self.clocks = Clocks(limits)
        self._bounds = scaling.bounds_of(limits, oneshot=generation.oneshot)
        self._oneshot = generation.oneshot
        self._wear = Wear(limits)
        self._cradle = Cradle(generation, slot, services, self.series)
        self._waiting = Waiting()
        self._crashes = Crashes()
        self._guests = Guests()
        self._departures = Departures(limits.timeout_s or UNLIMITED_S, self._guests, services.logbook)
        self._boots = 0  # workers on their way, besides those that will only replace another
        self._renewals = Renewals(self._replace, self._boot_failed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._dismissed = False
        self._parting = 0.0, ""  # how long workers may take to leave, and why they must
        services.budget.join(self)

    @property
    def state(self) -> State:
        """ "failing": workers end or do not start again and again; "failed": until a later request."""
        if self._crashes.failing and self._state in ("booting", "ready"):
            return "failing"
        return self._state

    @property
    def trouble(self) -> str:
        """Why the last boot failed, or how the last worker ended if they do not stay; empty: all is well."""
        return self.last_error or (self._last_end if self._crashes.failing else "")

    # taking and giving back

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def leaving(self) -> list[Worker]:
        """Workers that get no request any more and finish those that they have."""
        return self._departures.workers

    @property
    def everybody(self) -> list[Worker]:
        """Those that serve and those that leave."""
        return [*self.workers, *self.leaving]

    @property
    def in_flight(self) -> int:
        """Requests and WebSockets that its workers have now."""
        return sum(worker.in_flight for worker in self.everybody)

    @property
    def websockets(self) -> int:
        """WebSockets that are open, or about to be."""
        return len(self._guests)

    def take(self) -> Worker | None:
        """A slot of a ready worker, if one is free and nobody waits; goes back with `release`."""
        worker = None if self._waiting.tickets else self._least_busy()
        if worker is not None:
            worker.in_flight += 1
            if self._oneshot:
                self.attend()
        return worker

    async def acquire(self, since: float | None = None) -> Worker:
        """A slot of a ready worker, in turn; the caller gives it back with `release`.

        Args:
            since: when the request came, if it had a slot already and comes back for another.

        Raises:
            Overloaded: the queue is full, or the wait was too long.
            BootError: the function does not start.
            ShuttingDown: the pool was closed meanwhile.
        """
        return self.take() or await self._wait(since)

    async def _wait(self, since: float | None) -> Worker:
        if self._state == "failed":
            self._try_again()
        if self._state == "draining":
            raise ShuttingDown
        if since is None and self._limits.queue and len(self._waiting) >= self._limits.queue:
            raise queue_full(self._limits)
        ticket = self._waiting.join(since)
        self.attend()
        try:
            async with asyncio.timeout(self._longest_wait()):
                return await ticket
        except TimeoutError:
            self._hand_on(ticket)
            raise no_room(self._limits, self._bounds, self.workers) from None
        except asyncio.CancelledError:
            self._hand_on(ticket)
            raise

    def _longest_wait(self) -> float | None:
        wait = self._limits.queue_wait_s
        if not self.workers and wait:
            wait += self._limits.boot_s
        return wait or None

    def _hand_on(self, ticket: Ticket) -> None:
        """A waiter leaves; the slot that it was given in the same moment goes to the next."""
        worker = self._waiting.leave(ticket)
        if worker is not None:
            worker.in_flight -= 1
            if not worker.in_flight:
                self._departures.rested(worker)
            self._serve_queue()

    def release(self, worker: Worker, stream: ResponseStream | None) -> None:
        """Give a slot back, with its connection if that can carry another request."""
        worker.in_flight -= 1
        worker.served += 1
        if stream is not None and not worker.dead and not stream.closed:
            worker.idle.append(stream)
        if not worker.in_flight:
            self._rested(worker)
        if worker.served >= self._wear.lifetime:
            self.renew(worker, EARLY_DROP)
        if self._waiting.tickets:
            self._serve_queue()

    def _rested(self, worker: Worker) -> None:
        worker.rested_at = time.monotonic()
        self._services.budget.rested(self)
        if self._departures.workers:
            self._departures.rested(worker)
        if self._oneshot and worker in self.workers and not worker.dead:
            self._retire(worker, EARLY_DROP)

    def _least_busy(self) -> Worker | None:
        best: Worker | None = None
        for worker in self.workers:
            if worker.free and (best is None or worker.in_flight < best.in_flight):
                best = worker
        return best

    def _serve_queue(self) -> None:
        while self._waiting.tickets:
            worker = self._least_busy()
            if worker is None or not self._waiting.serve(worker):
                return

    # WebSockets

    def enter(self, part: Part, worker: Worker) -> None:
        """A WebSocket begins; `part` closes it, and is told why, when its worker is to leave.

        Raises:
            ShuttingDown: they are leaving already.
        """
        if self._dismissed:
            raise ShuttingDown
        self._guests.enter(part, worker)

    def leave(self, part: Part) -> None:
        """A WebSocket is over."""
        self._guests.leave(part)

    def dismiss(self, reason: str) -> None:
        """Close the WebSockets, and begin no others."""
        self._dismissed = True
        self._guests.dismiss(reason)

    def forewarn(self, reason: str) -> None:
        """Tell every worker that it will have to end; requests go on."""
        for worker in self.workers:
            worker.forewarn(reason)

    # more workers

    async def start(self, *, needed: bool = True) -> None:
        """Boot the first worker, and then the others beside it.

        Args:
            needed: False: where the totals over all functions leave no room, the first request will.

        Raises:
            BootFailure: it does not start.
        """
        if not needed and self._services.budget.room() == 0:
            self._state = "ready"
            return
        self._expect(1)
        await self._boot()
        self.attend()

    def attend(self) -> None:
        """Boot what is wanted now, and look again when that may have changed by itself."""
        if self._state in ("draining", "failed"):
            return
        pause, demand, budget = self._crashes.waiting, self._demand(), self._services.budget
        if pause <= 0 and (count := scaling.wanted(self._bounds, demand)):
            granted = budget.grant(self, count)
            self._expect(granted)
            for _ in range(granted):
                self._run(self._add())
        elif pause > 0 or scaling.may_change(self._bounds, demand):
            self._attend_in(pause if pause > 0 else PATIENCE_S)

    def _attend_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._attend_again)

    def _attend_again(self) -> None:
        self._timer = None
        self.attend()

    def _expect(self, boots: int) -> None:
        """So many more workers (fewer, if negative) are on their way."""
        self._boots += boots
        self._count()

    def _count(self) -> None:
        self._services.budget.holds(self, len(self.workers) + self._boots)

    def _demand(self) -> Demand:
        return Demand(
            ready=len(self.workers),
            busy=sum(worker.in_flight > 0 for worker in self.workers),
            booting=self._boots,
            leaving=len(self._departures.workers),
            room=self.workers[0].concurrency if self.workers else 1,
            queued=len(self._waiting),
            waited_s=self._waiting.longest(),
        )

    async def _add(self) -> None:
        with contextlib.suppress(BootFailure):  # it was told of
            await self._boot()
        self.attend()

    async def _boot(self) -> None:
        """Bring up a worker that is counted among those on their way."""
        try:
            worker = await self._cradle.worker(self._on_end)
        except BootFailure as failure:
            self._expect(-1)
            self._boot_failed(failure)
            raise
        except BaseException:
            self._expect(-1)
            raise
        self._boots -= 1
        self._arrived(worker)

    def _arrived(self, worker: Worker) -> None:
        if self._state == "draining":
            self._run(departures.part([worker], *self._parting, self._services.logbook))
            return
        self._crashes.came_up()
        self.last_error, self._state, self.proven = "", "ready", True
        worker.rested_at = worker.ready_at
        worker.on_room = lambda: self._has_room(worker)
        worker.on_settled = lambda: self._settled(worker)
        worker.on_blocked = lambda: self._blocked(worker)
        self.workers.append(worker)
        self._count()
        self.series.booted(worker.boot_ms / 1000)
        self._serve_queue()

    def _has_room(self, worker: Worker) -> None:
        """A place has become free by itself, or none will any more: then another comes at once."""
        if worker.spoiled and worker in self.workers:
            self._strike(worker)
            self._departures.workers.append(worker)  # it ends by itself
            self.series.restarts += not worker.may_recover  # else it is not decided yet
            if not worker.used:  # else it was a request's doing
                self._crashes.died(worker.ready_at, used=False)
            self.attend()
        self._serve_queue()

    def _settled(self, worker: Worker) -> None:
        """It was to be ended, and leaves like others instead."""
        if self._state != "draining" and worker in self.leaving:
            self.series.retired += 1
            self._departures.begin(worker, CPU)

    def _blocked(self, worker: Worker) -> None:
        """Its event loop stands still: others get what it has not begun with, if any can take it."""
        growing = self._boots > 0 or len(self.workers) < self._bounds.most
        if growing or any(other.free for other in self.workers):
            worker.take_back()

    def _strike(self, worker: Worker) -> None:
        """It gets no more requests."""
        self.workers.remove(worker)
        self._count()

    def _boot_failed(self, failure: BootFailure) -> None:
        self._crashes.boot_failed()
        self.series.boot_failures += 1
        self.last_error = str(failure)
        if not self.workers and not self._boots and self._state != "draining":
            self._state = "failed"
            self._waiting.refuse(BootError())
        self.on_failure(failure)

    def _try_again(self) -> None:
        """A request came for a function that failed: boot again, but not at every request.

        Raises:
            BootError: the last attempt was too short a time ago.
        """
        if self._crashes.waiting > 0:
            raise BootError
        self._state = "booting"

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_end(self, worker: Worker, how: str) -> None:
        left = self._departures.ended(worker)
        if worker in self.workers:  # else it was ready only after the pool's end
            self._strike(worker)
        if self._state == "draining":
            return
        if not left or how != "status 0":
            name = self.generation.function.name
            self._last_end = text = f"worker {worker.pid} ended ({how})"
            self._services.logbook.tell(text, level="warning", function=name, worker=worker.pid)
        if not left:
            self.series.restarts += 1
            self._crashes.died(worker.ready_at, used=worker.used)
            if not self.workers and (self._bounds.least or self._waiting):
                self._state = "booting"
        self.attend()

    def discard(self, worker: Worker) -> None:
        """A worker broke a connection before accepting its request: do not use it again."""
        if self._state != "draining" and worker not in self._departures.workers:
            # Else it is leaving, and may have other requests to finish.
            why = "it closed the connection of a request that it had not begun with"
            worker.kill("" if worker.has_hung_up() else why)

    def meet_engine(self) -> None:
        """A new engine is up: lead the workers to it."""
        for worker in self.everybody:
            worker.meet_engine()

    # fewer workers, and fresh ones

    def look(self) -> None:
        """Called every second: see to workers that are too old, too large or idle for too long."""
        if self._state in ("draining", "failed"):
            return
        now = time.monotonic()
        for worker in tuple(self.workers):
            if reason := self._wear.reason(worker, now):
                self.renew(worker, reason)
        self._renew()
        self._retire_idle(now)
        if len(self.workers) >= self._bounds.least and not self._boots:
            self._crashes.look()
        self.attend()

    def _retire_idle(self, now: float) -> None:
        idle = sorted((w for w in self.workers if not w.in_flight), key=lambda worker: worker.rested_at)
        rests = [now - worker.rested_at for worker in idle]
        limit = self._limits.worker_idle_s
        for worker in idle[: scaling.superfluous(self._bounds, len(self.workers), rests, limit)]:
            self._retire(worker, EARLY_DROP)

    def renew(self, worker: Worker, reason: str) -> None:
        """Have another worker take its place; until that one is ready it goes on.

        Args:
            reason: what its `before_unload` is told.
        """
        if worker not in self.workers or len(self.leaving) >= self._bounds.most:
            return  # those that finish what they were given must not become ever more
        self._renewals.add(worker, reason)
        self._renew()

    def _renew(self) -> None:
        if self._crashes.waiting <= 0:
            self._renewals.go_on()

    async def _replace(self, worker: Worker, reason: str) -> None:
        if worker not in self.workers:
            return
        fresh = await self._cradle.worker(self._on_end)
        worker.worn = True
        self._arrived(fresh)
        if worker not in self.workers and len(self.workers) + self._boots > self._bounds.most:
            self._retire(fresh, EARLY_DROP)  # the other died meanwhile, and was replaced for that
        await asyncio.sleep(0)  # who was given a place of it in this moment comes to know of it first
        if worker in self.workers:
            self._retire(worker, reason)

    def _retire(self, worker: Worker, reason: str) -> None:
        self._strike(worker)
        self.series.retired += 1
        self._departures.begin(worker, reason)

    # with all functions together

    @property
    def memory(self) -> int:
        """Bytes that its workers have taken."""
        return sum(worker.memory for worker in self.everybody)

    @property
    def largest(self) -> int:
        """Bytes that the largest of its workers has taken."""
        return max((worker.memory for worker in self.workers), default=0)

    def holding(self) -> Holding:
        """What it has of the workers of all functions."""
        rested = self._longest_idle()
        idle_s = None if rested is None else time.monotonic() - rested.rested_at
        return Holding(len(self.workers) + self._boots, len(self.workers) - self._bounds.least, idle_s)

    def _longest_idle(self) -> Worker | None:
        idle = [worker for worker in self.workers if not worker.in_flight]
        return min(idle, key=lambda worker: worker.rested_at, default=None)

    def give_way(self) -> None:
        """One of its workers leaves for one of another function: an idle one, or the least busy."""
        worker = self._longest_idle() or min(self.workers, key=lambda worker: worker.in_flight, default=None)
        if worker is not None:
            self._retire(worker, EARLY_DROP)
            if self._waiting:
                asyncio.get_running_loop().call_soon(self.attend)

    def relieve(self) -> None:
        """Memory is short, and the largest of all workers is one of these."""
        if self.workers:
            self.renew(max(self.workers, key=lambda worker: worker.memory), MEMORY)

    # the end

    async def close(self, seconds: float, reason: str) -> None:
        """Take no more requests; end every worker, after at most `seconds` for what it has."""
        self._state, self._parting = "draining", (seconds, reason)
        self._cradle.shut()
        self._services.budget.leave(self)
        self.dismiss(reason)
        self._waiting.refuse(ShuttingDown())
        self._departures.abandon()
        self._renewals.close()
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        await departures.part(self.everybody, seconds, reason, self._services.logbook)
        self._cradle.close()
