"""Plain code of a function, on threads.

A thread cannot be cancelled: its call is a task of its own, which goes on when whoever
waits for it is cancelled. That task never fails itself, because a `SystemExit` that
leaves a task ends the whole event loop, and every other request with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from runtime.context import current

Running = asyncio.Task[tuple[Any, BaseException | None]]


def begin(
    function: Callable[..., Any], *arguments: Any, limiter: anyio.CapacityLimiter | None = None
) -> Running:
    """Call a function on a thread; `result` waits for it."""

    async def run() -> tuple[Any, BaseException | None]:
        try:
            return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter), None
        except BaseException as error:
            return None, error

    return asyncio.get_running_loop().create_task(run())


async def result(running: Running) -> Any:
    """What the call returns; raises what it raises. A call that is left behind counts as such."""
    try:
        value, error = await asyncio.shield(running)
    except asyncio.CancelledError:
        if (call := current.get()) is not None:
            call.linger(call, running)
        raise
    if error is not None:
        raise error
    return value
