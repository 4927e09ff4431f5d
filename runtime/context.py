"""What belongs to the request that is being answered right now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class Call:
    """One request (or WebSocket) inside a worker.

    Attributes:
        id: the request id, as the client sees it in `sb-request-id`.
        function: the function's name.
        deadline: seconds of CLOCK_MONOTONIC at which the host gives up; 0: never.
        keep: starts work that outlives the response; set by the worker.
    """

    __slots__ = ("deadline", "function", "id", "keep")

    def __init__(
        self, id: str, function: str, deadline: float, keep: Callable[[Awaitable[Any]], asyncio.Task[Any]]
    ) -> None:
        self.id, self.function, self.deadline, self.keep = id, function, deadline, keep


current: ContextVar[Call | None] = ContextVar("runtime.call", default=None)


def wait_until(awaitable: Awaitable[T]) -> asyncio.Task[T]:
    """Let work outlive the response.

    The worker is not stopped for a reload or a shutdown before it is done (or the
    function's wall-clock limit has passed); a failure is logged with the request's id.

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
    return call.keep(awaitable)
