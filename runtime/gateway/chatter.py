"""How often a worker may tell of its state."""

from __future__ import annotations

import time
from collections.abc import Callable

_WINDOW_S = 5.0
_PER_SECOND = 20
_PER_REQUEST = 8  # a request may leave several pieces of work behind


class Chatter:
    """Counts what a worker says of itself, so that it cannot keep the gateway busy with that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._count = self._served = 0

    def is_too_much(self, served: int, in_flight: int) -> bool:
        """It has spoken once more: whether that is more than time and its requests explain.

        Args:
            served: requests that it has had and that are over.
            in_flight: those that it has now.
        """
        now = self._clock()
        if now - self._since >= _WINDOW_S:
            self._since, self._count, self._served = now, 0, served
        self._count += 1
        return self._count > _PER_SECOND * _WINDOW_S + _PER_REQUEST * (served - self._served + in_flight)
