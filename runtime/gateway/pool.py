"""The workers of one generation, and the queue before them."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from runtime.errors import BootError, Overloaded, ShuttingDown
from runtime.gateway.deadlines import Deadlines
from runtime.gateway.generation import Generation
from runtime.gateway.worker import BootFailure, ResponseStream, Services, Worker, file_for_workers

State = Literal["booting", "ready", "failed", "draining"]

_YOUNG_S = 5.0
_LONGEST_WAIT_S = 30.0
_FIRST_WAIT_S = 0.05
_DOUBLINGS = 10  # more than enough for the longest wait
_BOOT_ATTEMPTS = 3
_GRACE_S = 1.0  # for ending, after the time that it may take to finish
_AGAIN = "try again shortly"
_BLOCKED = (
    "something blocks its event loop, such as a handler or before_unload, or a thread of it does not end"
)


class Pool:
    """Keeps `min_workers` alive and hands out their slots, first come, first served.

    Attributes:
        state: "failed" until the next attempt, which a later request starts.
        restarts: workers that had to be replaced.
        proven: it has had a worker that was ready.
        last_error: why the last boot failed, for the log and for operators.
        idle_limit: of the function: how long it may take to its first byte.
    """

    def __init__(self, generation: Generation, slot: int, services: Services) -> None:
        self.generation = generation
        self.state: State = "booting"
        self.workers: list[Worker] = []
        self.restarts = 0
        self.last_error = ""
        self.proven = False
        self.on_failure: Callable[[BootFailure], None] = lambda failure: None
        self._slot, self._services = slot, services
        self._limits = generation.function.limits
        self.idle_limit = Deadlines(self._limits.idle_s)
        self._archive = -1
        self._queue: deque[asyncio.Future[Worker]] = deque()
        self._failures = 0
        self._retry_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._boots = 0  # workers on their way
        self._guests: set[Callable[[str], None]] = set()
        self._dismissed = False
        self._parting = 0.0, ""  # how long workers may take to leave, and why they must

    # taking and giving back

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Requests and WebSockets that its workers have now."""
        return sum(worker.in_flight for worker in self.workers)

    def take(self) -> Worker | None:
        """A slot of a ready worker, if one is free and nobody waits; goes back with `release`."""
        worker = None if self._queue else self._least_busy()
        if worker is not None:
            worker.in_flight += 1
        return worker

    async def acquire(self) -> Worker:
        """A slot of a ready worker, in turn; the caller gives it back with `release`.

        Raises:
            Overloaded: the queue is full, or the wait was too long.
            BootError: the function does not start.
            ShuttingDown: the pool was closed meanwhile.
        """
        return self.take() or await self._wait()

    async def _wait(self) -> Worker:
        if self.state == "failed":
            self._try_again()
        if self.state == "draining":
            raise ShuttingDown
        if self._limits.queue and len(self._queue) >= self._limits.queue:
            raise Overloaded(
                f"{self._limits.queue} requests wait for this function already (queue); {_AGAIN}"
            )
        if not (self.workers or self._boots or self._tasks):
            self._spawn()  # `min_workers = 0`, and the last one has ended
        ticket: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._queue.append(ticket)
        try:
            async with asyncio.timeout(self._longest_wait()):
                return await ticket
        except TimeoutError:
            self._hand_on(ticket)
            raise self._no_room() from None
        except asyncio.CancelledError:
            self._hand_on(ticket)
            raise

    def _longest_wait(self) -> float | None:
        wait = self._limits.queue_wait_s
        if self.state == "booting" and wait:
            wait += self._limits.boot_s
        return wait or None

    def _no_room(self) -> Overloaded:
        waited = f"No worker had room for this request within {self._limits.queue_wait_s:g} s (queue_wait_s)"
        if not self.workers:
            return Overloaded(f"{waited}; {_AGAIN}")
        each = self.workers[0].concurrency
        return Overloaded(
            f"{waited}: each takes {each} requests and WebSockets at once (concurrency); {_AGAIN}"
        )

    def _hand_on(self, ticket: asyncio.Future[Worker]) -> None:
        """A waiter leaves; the slot that it was given in the same moment goes to the next."""
        if ticket in self._queue:
            self._queue.remove(ticket)
        elif ticket.done() and not ticket.cancelled() and ticket.exception() is None:
            ticket.result().in_flight -= 1
            self._serve_queue()

    def release(self, worker: Worker, stream: ResponseStream | None) -> None:
        """Give a slot back, with its connection if that can carry another request."""
        worker.in_flight -= 1
        worker.served += 1
        if stream is not None and not worker.dead and not stream.closed:
            worker.idle.append(stream)
        self._serve_queue()

    def _least_busy(self) -> Worker | None:
        best: Worker | None = None
        for worker in self.workers:
            if worker.free and (best is None or worker.in_flight < best.in_flight):
                best = worker
        return best

    def _serve_queue(self) -> None:
        while self._queue:
            worker = self._least_busy()
            if worker is None:
                return
            ticket = self._queue.popleft()
            if not ticket.done():
                worker.in_flight += 1
                ticket.set_result(worker)

    # WebSockets, which nobody waits for: they may stay open for ever

    def enter(self, part: Callable[[str], None]) -> None:
        """A WebSocket begins; `part` closes it, and is told why, when the workers are to leave.

        Raises:
            ShuttingDown: they are leaving already.
        """
        if self._dismissed:
            raise ShuttingDown
        self._guests.add(part)

    def leave(self, part: Callable[[str], None]) -> None:
        """A WebSocket is over."""
        self._guests.discard(part)

    def dismiss(self, reason: str) -> None:
        """Close the WebSockets, and begin no others."""
        self._dismissed = True
        for part in tuple(self._guests):
            part(reason)

    def forewarn(self, reason: str) -> None:
        """Tell every worker that it will have to end; requests go on."""
        for worker in self.workers:
            worker.forewarn(reason)

    # keeping workers alive

    async def start(self) -> None:
        """Boot the first worker, and then the others beside it.

        Raises:
            BootFailure: it does not start.
        """
        await self._boot_one()
        if self.state == "draining":
            return
        for _ in range(self._limits.min_workers - len(self.workers) - self._boots):
            self._spawn()

    async def _boot_one(self) -> None:
        self._boots += 1
        try:
            worker = await self._booted()
        except BootFailure as failure:
            self._boot_failed(failure)
            raise
        finally:
            self._boots -= 1
        if self.state == "draining":
            self._run(self._part_with([worker]))
            return
        self._failures, self.last_error, self.state, self.proven = 0, "", "ready", True
        self.workers.append(worker)
        self._serve_queue()

    async def _booted(self) -> Worker:
        """A worker that came up. One that dies on the way, without saying why, is tried again."""
        if self._archive < 0:
            self._archive = file_for_workers(self.generation.archive, constant=True)
        for _ in range(_BOOT_ATTEMPTS - 1):
            worker = Worker(self.generation, self._slot, self._services)
            try:
                await worker.boot(self._archive, self._on_end)
                return worker
            except BootFailure as failure:
                if not failure.crashed or self.state == "draining":
                    raise
        worker = Worker(self.generation, self._slot, self._services)
        await worker.boot(self._archive, self._on_end)
        return worker

    def _boot_failed(self, failure: BootFailure) -> None:
        self._failures += 1
        self._retry_at = time.monotonic() + self._backoff()
        self.last_error = str(failure)
        if not self.workers and self.state != "draining":
            self.state = "failed"
            self._refuse_queue(BootError())
        self.on_failure(failure)

    def _backoff(self) -> float:
        return min(_FIRST_WAIT_S * 2.0 ** min(self._failures, _DOUBLINGS), _LONGEST_WAIT_S)

    def _try_again(self) -> None:
        """A request came for a function that failed: boot again, but not at every request.

        Raises:
            BootError: the last attempt was too short a time ago.
        """
        if time.monotonic() < self._retry_at:
            raise BootError
        self.state = "booting"
        self._spawn()

    def _spawn(self, delay: float = 0.0) -> None:
        async def work() -> None:
            await asyncio.sleep(delay)
            try:
                await self._boot_one()
            except BootFailure:
                if self.workers and self.state == "ready":
                    self._spawn(self._backoff())

        self._run(work())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_end(self, worker: Worker, how: str) -> None:
        if worker in self.workers:  # else it was ready only after the pool's end
            self.workers.remove(worker)
        if self.state == "draining":
            return
        self.restarts += 1
        name = self.generation.function.name
        self._services.logbook.tell(f"worker {worker.pid} ended ({how})", level="warning", function=name)
        young = worker.served == 0 and time.monotonic() - worker.ready_at < _YOUNG_S
        self._failures = self._failures + 1 if young else 0
        if not self.workers:
            self.state = "booting"
        if len(self.workers) + self._boots < self._limits.min_workers or self._queue:
            self._spawn(self._backoff() if young else 0.0)

    def discard(self, worker: Worker) -> None:
        """A worker broke a connection before accepting its request: do not use it again."""
        if self.state != "draining":  # else it is leaving, and may have other requests to finish
            worker.kill()

    def meet_engine(self) -> None:
        """A new engine is up: lead the workers to it."""
        for worker in self.workers:
            worker.meet_engine()

    # the end

    async def close(self, seconds: float, reason: str) -> None:
        """Take no more requests; end every worker, after at most `seconds` for what it has."""
        self.state, self._parting = "draining", (seconds, reason)
        self.dismiss(reason)
        self._refuse_queue(ShuttingDown())
        for task in self._tasks:
            task.cancel()
        await self._part_with(list(self.workers))
        if self._archive >= 0:
            os.close(self._archive)

    async def _part_with(self, workers: list[Worker]) -> None:
        seconds, reason = self._parting
        for worker in workers:
            worker.drain(seconds, reason)
        try:
            async with asyncio.timeout(seconds + _GRACE_S):
                await asyncio.gather(*(worker.gone() for worker in workers))
        except TimeoutError:
            for worker in workers:
                self._kill_late(worker, seconds)

    def _kill_late(self, worker: Worker, seconds: float) -> None:
        if worker.lives:
            name = self.generation.function.name
            text = f"worker {worker.pid} did not end within {seconds:g} s and was killed: {_BLOCKED}"
            self._services.logbook.tell(text, level="warning", function=name, worker=worker.pid)
        worker.kill()

    def _refuse_queue(self, error: BootError | ShuttingDown) -> None:
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.done():
                ticket.set_exception(error)
