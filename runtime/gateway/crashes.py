"""Workers that do not come up, or do not stay: how long to wait before the next one."""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 30.0
_DOUBLINGS = 10  # more than enough for the longest wait
_BREATH_S = 0.2  # between workers that die of their requests: others have to live beside them
_MANY = 3
YOUNG_S = 5.0


class Crashes:
    """What went wrong in a row.

    Attributes:
        retry_at: before this time (CLOCK_MONOTONIC) no other worker is tried.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.retry_at = 0.0
        self._clock = clock
        self._failed_boots = self._deaths = 0
        self._last_at = self._up_at = 0.0

    @property
    def failing(self) -> bool:
        """It goes on and on."""
        return self._failed_boots + self._deaths >= _MANY

    @property
    def waiting(self) -> float:
        """Seconds until another worker may be tried; 0 or less: now."""
        return self.retry_at - self._clock()

    def boot_failed(self) -> None:
        self._failed_boots += 1
        self._wait(self._backoff())

    def came_up(self) -> None:
        """A worker is ready, which says nothing yet about how long it will live."""
        self._failed_boots = 0
        if self._up_at < self._last_at:
            self._up_at = self._clock()

    def died(self, born_at: float, *, used: bool) -> None:
        """A worker ended that should not have. Those that end together count once.

        Args:
            born_at: when it was ready.
            used: it had had a request, which may be what it died of.
        """
        now = self._clock()
        if now - born_at >= YOUNG_S:
            self._deaths = 0
            return
        if born_at > self._last_at:
            self._deaths += 1
        self._last_at = now
        if not used:
            self._wait(self._backoff())
        elif self.failing:
            self._wait(_BREATH_S)

    def look(self) -> None:
        """All workers are there: forget what went wrong before, if they have lived for long since then."""
        if self._clock() - max(self._last_at, self._up_at) >= YOUNG_S:
            self._deaths = self._failed_boots = 0

    def _wait(self, seconds: float) -> None:
        self._last_at = self._clock()
        self.retry_at = self._last_at + seconds

    def _backoff(self) -> float:
        count = min(self._failed_boots + self._deaths, _DOUBLINGS)
        return min(_FIRST_WAIT_S * 2.0**count, _LONGEST_WAIT_S)
