"""What belongs to the request that is being answered right now."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

_NEWS_S = 0.25
"""By then the host has ended a request whose time is up, unless a blocked event loop cannot hear it.

Who stops working at the deadline itself might still answer, with half of the work.
"""

T = TypeVar("T")
Task = asyncio.Task[Any]


def _nothing(call: Call, task: Task) -> None:
    """There is no worker to tell."""


class Call:
    """One request (or WebSocket) inside a worker.

    Attributes:
        id: the request id, as the client sees it in `sb-request-id`.
        function: the function's name.
        deadline: seconds of CLOCK_MONOTONIC at which the host gives up; 0: never.
        limit_s: what the request may take from its arrival; of a WebSocket, which has none, how long
            work that outlives it may take; 0: no limit.
        cancelled: the client left, or a limit was reached.
        keep: starts work that outlives the response of this request; set by the worker.
        account: what it has taken of the processor; set by the worker.
        linger: told of a task that goes on although the request is over; set by the worker.
    """

    __slots__ = ("account", "cancelled", "deadline", "function", "id", "keep", "limit_s", "linger")

    def __init__(
        self, id: str, function: str, deadline: float, keep: Callable[[Call, Awaitable[Any]], Task]
    ) -> None:
        self.id, self.function, self.deadline, self.keep = id, function, deadline, keep
        self.limit_s = 0.0
        self.cancelled = False
        self.account: Any = None
        self.linger: Callable[[Call, Task], None] = _nothing

    def patience(self) -> float:
        """Seconds that work which outlives it may take from now on; infinite: no limit."""
        if self.deadline:
            return max(self.deadline - time.monotonic(), 0.0)
        return self.limit_s or math.inf


current: ContextVar[Call | None] = ContextVar("runtime.call", default=None)


def wait_until(awaitable: Awaitable[T]) -> asyncio.Task[T]:
    """Let work outlive the response.

    The worker is not stopped for a reload or a shutdown before it is done. What is not done
    when the request's time (`timeout_s`) has passed is cancelled, and logged; so is a
    failure, with the request's id.

    Raises:
        RuntimeError: called outside a request, such as in `startup` or `before_unload`.
    """
    call = current.get()
    if call is None:
        if isinstance(awaitable, Coroutine):
            awaitable.close()  # else Python warns that nobody awaited it
        raise RuntimeError(
            "wait_until works inside a request: call it from your handler; in startup use "
            "asyncio.create_task, and in before_unload await the work itself"
        )
    return call.keep(call, awaitable)


def is_cancelled() -> bool:
    """Whether nobody wants the answer any more: the client left, or a limit was reached.

    What runs on a thread, such as a plain `def` handler, cannot be stopped from outside: one
    that takes long asks now and then, and returns. Threads know the request that started them
    (those of a pool, the one that they work for). Outside a request it is False.
    """
    call = current.get()
    return call is not None and (call.cancelled or 0 < call.deadline <= time.monotonic() - _NEWS_S)


def time_left() -> float:
    """Seconds until the request is cancelled (`timeout_s`), on any thread.

    Infinite without such a limit, on a WebSocket, and outside a request.
    """
    call = current.get()
    return math.inf if call is None or not call.deadline else max(call.deadline - time.monotonic(), 0.0)
