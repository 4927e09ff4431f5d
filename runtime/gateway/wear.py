"""Workers that had better be replaced by fresh ones."""

from __future__ import annotations

from runtime.gateway.usage import MEGABYTE, MOST_PROCESSES
from runtime.gateway.worker import Worker
from runtime.project.settings import Limits

EARLY_DROP, WALL_CLOCK, MEMORY, CPU = "early_drop", "wall_clock", "memory", "cpu"
"""Why a worker leaves, as `before_unload` is told: it is not needed any more, or has served enough or
started too much that ended; it is too old; it has grown too large; a thread of it was over
`cpu_ms`. The peer's words."""

_GROWN = 0.5  # of what was free of `memory_mb` when it was new: it had better be replaced than killed
_BETWEEN_GROWN_S = 30.0  # since a function may need that much
_UNBURIED = MOST_PROCESSES // 2  # nobody but the worker can clear them away, with its own end
_BETWEEN_DEAD_S = 2.0  # since a function may start so many at its import
_NO_LIMIT = 2**63


class Wear:
    """Says which workers of one generation are worn.

    Attributes:
        lifetime: how many requests one serves.
    """

    def __init__(self, limits: Limits) -> None:
        self.lifetime = limits.max_requests or _NO_LIMIT
        self._max_age_s, self._memory = limits.max_age_s, limits.memory_mb * MEGABYTE
        self._grown_at = float("-inf")
        self._new = 0  # bytes that one takes before its first request

    def reason(self, worker: Worker, now: float) -> str:
        """Why it is to be replaced; empty: it is not.

        Args:
            now: seconds of the monotonic clock.
        """
        if self._max_age_s and now - worker.ready_at >= self._max_age_s:
            return WALL_CLOCK
        if worker.served >= self.lifetime or self._has_many_dead(worker, now):
            return EARLY_DROP
        return MEMORY if self._has_grown(worker, now) else ""

    def _has_many_dead(self, worker: Worker, now: float) -> bool:
        return worker.unburied > _UNBURIED and now - worker.ready_at >= _BETWEEN_DEAD_S

    def _has_grown(self, worker: Worker, now: float) -> bool:
        new = self._when_new(worker)
        grown = worker.memory - new >= max(_GROWN * (self._memory - new), 1)
        if not self._memory or not grown or now - self._grown_at < _BETWEEN_GROWN_S:
            return False
        self._grown_at = now
        return True

    def _when_new(self, worker: Worker) -> int:
        """What it took before its first request; if it was never looked at so early, what another did."""
        if not worker.first_memory and not worker.served and not worker.in_flight:
            worker.first_memory = worker.memory
        self._new = worker.first_memory or self._new
        return self._new
