"""How many workers there should be: decisions without a clock, a process or a socket."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from runtime.process import cores
from runtime.project.settings import Limits

PATIENCE_S = 0.02
"""How long somebody must have waited before a worker is added: most waits end by themselves."""

_AT_ONCE = 4  # workers of one function that boot at the same time for requests of their own
_ONESHOT_WORKERS = 100
_UNLIMITED = 2**31 - 1


class Bounds(NamedTuple):
    """How many workers a function may have.

    Attributes:
        least: kept ready; where each serves one request, beside those that have one.
        most: all of them.
        oneshot: each serves one request and ends.
    """

    least: int
    most: int
    oneshot: bool = False


class Demand(NamedTuple):
    """What a function has, and what waits for it.

    Attributes:
        ready: workers that take requests, the busy ones included.
        busy: those that have one.
        booting: on their way, besides those that will only replace another.
        leaving: workers that finish what they have.
        room: requests that one worker takes at once.
        queued: requests that wait for a slot.
        waited_s: how long the first of them has waited.
    """

    ready: int = 0
    busy: int = 0
    booting: int = 0
    leaving: int = 0
    room: int = 1
    queued: int = 0
    waited_s: float = 0.0


class Holding(NamedTuple):
    """What one function has of the workers of all functions together.

    Attributes:
        workers: ready ones, and those on their way.
        surplus: how many are ready beyond its `min_workers`.
        idle_s: how long the one that has rested longest has had nothing to do; None: all are busy.
    """

    workers: int
    surplus: int
    idle_s: float | None


def bounds_of(limits: Limits, *, oneshot: bool = False) -> Bounds:
    """What the configuration says."""
    if limits.max_workers is None:
        most = max(limits.min_workers, _ONESHOT_WORKERS if oneshot else cores())
    else:
        most = limits.max_workers or _UNLIMITED
    return Bounds(limits.min_workers, most, oneshot)


def wanted(bounds: Bounds, demand: Demand) -> int:
    """How many workers to add now.

    What is missing to `min_workers` is added at once. Beyond that, somebody must have waited a
    while, and what was added for it before must have come: so their number doubles at most.
    """
    if bounds.oneshot:
        return _wanted_fresh(bounds, demand)
    have = demand.ready + demand.booting
    missing = max(bounds.least, 1 if demand.queued else 0) - have
    if missing > 0:
        return min(missing, bounds.most - have)
    if demand.booting or demand.queued == 0 or demand.waited_s < PATIENCE_S:
        return 0
    return max(0, min(have, math.ceil(demand.queued / demand.room), bounds.most - have))


def may_change(bounds: Bounds, demand: Demand) -> bool:
    """More may be wanted only because time passes: somebody will have waited for long enough."""
    have = demand.ready + demand.booting
    return not bounds.oneshot and bool(demand.queued) and not demand.booting and have < bounds.most


def _wanted_fresh(bounds: Bounds, demand: Demand) -> int:
    """One for each request that waits, and `min_workers` for those that will come."""
    fresh = demand.ready - demand.busy + demand.booting
    processes = demand.ready + demand.booting + demand.leaving
    missing = demand.queued + bounds.least - fresh
    return max(0, min(missing, bounds.most - processes, _AT_ONCE - demand.booting))


def superfluous(bounds: Bounds, ready: int, rests: Sequence[float], limit_s: float) -> int:
    """How many workers to end because they have had nothing to do for so long.

    Args:
        ready: workers that take requests.
        rests: how long each of those that have none has rested, in seconds.
        limit_s: 0: however long it is.
    """
    if not limit_s:
        return 0
    needed = ready - len(rests) + bounds.least if bounds.oneshot else bounds.least
    return max(0, min(ready - needed, sum(rest >= limit_s for rest in rests)))


def gives_way(holdings: Sequence[Holding], *, starving: bool) -> int | None:
    """Which function loses a worker to another whose requests wait; None: they go on waiting.

    One that is idle and beyond its function's `min_workers`, the one that has rested longest.
    For a function that has no worker at all, any other idle one; else a busy one of the function
    that has the most beyond its `min_workers`, which finishes what it has.

    Args:
        holdings: of the other functions.
    """

    def best(fits: Sequence[bool], worth: Sequence[float]) -> int | None:
        chosen = [index for index, good in enumerate(fits) if good]
        return max(chosen, key=lambda index: worth[index], default=None)

    rests = [holding.idle_s or 0.0 for holding in holdings]
    idle = [holding.idle_s is not None for holding in holdings]
    beyond = [holding.surplus > 0 for holding in holdings]
    found = best([a and b for a, b in zip(idle, beyond, strict=True)], rests)
    if found is None and starving:
        found = best(idle, rests)
    if found is None and starving:
        found = best(beyond, [holding.surplus for holding in holdings])
    return found
