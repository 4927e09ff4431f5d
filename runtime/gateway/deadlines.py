"""Many equal time limits behind one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadlines:
    """Calls back what was not removed in time.

    Every entry has the same limit, so they fall due in the order of their arrival, and one
    timer for the oldest serves all: an entry costs two dictionary operations.

    Args:
        seconds: the limit; 0: there is none.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: dict[Callable[[], None], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, expire: Callable[[], None]) -> None:
        """Call `expire` when the limit has passed, unless it is removed before."""
        if not self.seconds:
            return
        loop = asyncio.get_running_loop()
        self._due[expire] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._ring)

    def remove(self, expire: Callable[[], None]) -> None:
        """Forget an entry; one that is not there is fine."""
        self._due.pop(expire, None)

    def _ring(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        for expire, due in list(self._due.items()):
            if due > loop.time():
                self._timer = loop.call_at(due, self._ring)
                return
            del self._due[expire]
            expire()
