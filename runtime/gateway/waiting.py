"""Requests that wait for a slot, first come, first served."""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections import deque
from collections.abc import Sequence

from runtime.errors import BootError, Overloaded, ShuttingDown
from runtime.gateway.scaling import Bounds
from runtime.gateway.worker import Worker
from runtime.project.settings import Limits

_AGAIN = "try again shortly"


class Ticket(asyncio.Future[Worker]):
    """A place in the queue; its result is the worker that has a slot for it.

    Attributes:
        since: when it was drawn, or when the request came that has come back.
    """

    since: float


class Waiting:
    """The queue.

    Attributes:
        tickets: of those who stand in it.
    """

    def __init__(self) -> None:
        self.tickets: deque[Ticket] = deque()

    def __len__(self) -> int:
        return len(self.tickets)

    def longest(self) -> float:
        """How many seconds the first of them has waited."""
        return time.monotonic() - self.tickets[0].since if self.tickets else 0.0

    def join(self, since: float | None = None) -> Ticket:
        """Stand at the end.

        Args:
            since: a request that had a slot comes back, and this is when it came first
                (CLOCK_MONOTONIC): before all that came after it.
        """
        ticket = Ticket(loop=asyncio.get_running_loop())
        ticket.since = time.monotonic() if since is None else since
        insort(self.tickets, ticket, key=lambda other: other.since)
        return ticket

    def leave(self, ticket: Ticket) -> Worker | None:
        """Wait no more. A slot that was given in the same moment is for the caller to hand on."""
        if ticket in self.tickets:
            self.tickets.remove(ticket)
            return None
        given = ticket.done() and not ticket.cancelled() and ticket.exception() is None
        return ticket.result() if given else None

    def serve(self, worker: Worker) -> bool:
        """Give the first a slot of this worker; False: nobody waits any more."""
        while self.tickets:
            ticket = self.tickets.popleft()
            if not ticket.done():
                worker.in_flight += 1
                ticket.set_result(worker)
                return True
        return False

    def refuse(self, error: BootError | ShuttingDown) -> None:
        """Send everybody away."""
        while self.tickets:
            ticket = self.tickets.popleft()
            if not ticket.done():
                ticket.set_exception(error)


def queue_full(limits: Limits) -> Overloaded:
    """What somebody is told who may not even wait."""
    text = f"{limits.queue} requests wait for this function already (queue); {_AGAIN}"
    return Overloaded(text, limit="queue")


def no_room(limits: Limits, bounds: Bounds, workers: Sequence[Worker]) -> Overloaded:
    """What somebody is told who has waited for too long."""
    waited = f"No worker had room for this request within {limits.queue_wait_s:g} s (queue_wait_s)"
    if not workers:
        return Overloaded(f"{waited}; {_AGAIN}", limit="queue_wait_s")
    each, count = workers[0].concurrency, len(workers)
    why = f"each takes {each} requests and WebSockets at once (concurrency)"
    if count >= bounds.most:
        why += f", and there are {count} at most (max_workers)"
    return Overloaded(f"{waited}: {why}; {_AGAIN}", limit="queue_wait_s")
