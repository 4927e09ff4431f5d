"""Work that goes on although its request is over.

A thread cannot be cancelled, and a coroutine may resist. Either keeps the place of its
request until its end, and spoils the worker if it goes on for too long after `timeout_s`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from runtime.context import Call

GRACE_S = 2.0
"""How long after `timeout_s` such work may take to end."""

SOON_S = 0.05
"""How long a cancelled coroutine may take to clean up before it counts."""

_Request = tuple[str, float]  # id and deadline: work given to `wait_until` has a Call of its own


class Lingering:
    """Counts the requests that have left such work behind.

    Args:
        tell: told their number when it changes.
        spoil: told why the worker cannot be used any longer.
    """

    def __init__(self, tell: Callable[[int], None], spoil: Callable[[str], None]) -> None:
        self._tell, self._spoil = tell, spoil
        self._left: dict[_Request, set[asyncio.Task[Any]]] = {}
        self._timers: dict[_Request, asyncio.TimerHandle] = {}
        self._told = 0
        self._tells_soon = False

    def add(self, call: Call, task: asyncio.Task[Any]) -> None:
        """This work of `call`, whose request is over, is still going on."""
        if task.done():
            return
        request = call.id, call.deadline
        if request not in self._left:
            self._left[request] = set()
            self._limit(request, call)
            self._changed()
        if task not in self._left[request]:
            self._left[request].add(task)
            task.add_done_callback(partial(self._ended, request))

    def _limit(self, request: _Request, call: Call) -> None:
        patience = call.patience()
        if patience < math.inf:
            loop = asyncio.get_running_loop()
            self._timers[request] = loop.call_later(patience + GRACE_S, self._overdue, call)

    def _ended(self, request: _Request, task: asyncio.Task[Any]) -> None:
        self._left[request].discard(task)
        if self._left[request]:
            return
        del self._left[request]
        if request in self._timers:
            self._timers.pop(request).cancel()
        self._changed()

    def _changed(self) -> None:
        """Tell it once, however many begin or end at the same time."""
        if not self._tells_soon:
            self._tells_soon = True
            asyncio.get_running_loop().call_soon(self._tell_number)

    def _tell_number(self) -> None:
        self._tells_soon = False
        if len(self._left) != self._told:
            self._told = len(self._left)
            self._tell(self._told)

    def _overdue(self, call: Call) -> None:
        self._spoil(
            f"request {call.id} goes on {GRACE_S:g} s after its end (timeout_s): a thread, which has to "
            "ask runtime.is_cancelled() and return, or a coroutine that catches its cancellation"
        )
