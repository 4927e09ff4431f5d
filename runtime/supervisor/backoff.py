"""When to start a process again that has died."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.1
LONGEST_S = 5.0
HEALTHY_AFTER_S = 5.0
_DOUBLINGS = 10  # more than enough for the longest wait


@dataclass
class Backoff:
    """At once after a healthy life, then 0.1, 0.2, 0.4 … 5 seconds while it keeps dying young."""

    failures: int = 0

    def delay(self, lived_s: float) -> float:
        """Seconds to wait, for a process that lived this long."""
        if lived_s >= HEALTHY_AFTER_S:
            self.failures = 0
            return 0.0
        self.failures += 1
        if self.failures == 1:
            return 0.0
        return min(FIRST_S * 2.0 ** min(self.failures - 2, _DOUBLINGS), LONGEST_S)
