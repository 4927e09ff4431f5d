"""Work that is given to `wait_until`: it outlives the response of its request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from copy import copy
from functools import partial
from typing import Any, Protocol

from runtime.context import Call, current
from runtime.worker import logs
from runtime.worker.accounting import Meter
from runtime.worker.lingering import SOON_S


class Host(Protocol):
    """The worker, as this work sees it."""

    meter: Meter

    def linger(self, call: Call, task: asyncio.Task[Any]) -> None: ...

    def explain(self, error: BaseException) -> str: ...


class Kept:
    """All such work of a worker.

    Args:
        on_end: called when some of it has ended.
    """

    def __init__(self, host: Host, on_end: Callable[[], None]) -> None:
        self._host, self._on_end = host, on_end
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def keep(self, call: Call, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run it; see `runtime.wait_until`."""
        after = copy(call)
        after.cancelled = False  # the client's leaving ends the request alone
        account = after.account = self._host.meter.account_after(call.account)

        async def work() -> Any:
            current.set(after)
            try:
                return await awaitable
            except (SystemExit, KeyboardInterrupt) as error:  # would end the event loop, and all requests
                raise RuntimeError(f"{type(error).__name__} in work given to wait_until") from error
            finally:
                logs.finish()

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        account.stop = partial(self._stop, after, task, "(cpu_ms)")
        self._limit(after, task)
        task.add_done_callback(partial(self._ended, after))
        return task

    def _limit(self, call: Call, task: asyncio.Task[Any]) -> None:
        """It has the time that its request has."""
        patience = call.patience()
        if patience < math.inf:
            why = f"after {call.limit_s:g} s (timeout_s)"
            timer = asyncio.get_running_loop().call_later(patience, self._stop, call, task, why)
            task.add_done_callback(lambda done: timer.cancel())

    def _stop(self, call: Call, task: asyncio.Task[Any], why: str) -> None:
        call.cancelled = True
        task.cancel()
        logs.emit("error", f"work given to wait_until was cancelled {why}", call.id)
        asyncio.get_running_loop().call_later(SOON_S, self._host.linger, call, task)

    def _ended(self, call: Call, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        call.account.stop = None  # it holds the task
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logs.emit("error", f"work given to wait_until failed\n{self._host.explain(error)}", call.id)
        self._on_end()
