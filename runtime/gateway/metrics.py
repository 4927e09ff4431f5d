"""What is counted of one function: plain numbers, a fraction of a microsecond per request."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper bounds in seconds of a histogram's buckets; the last bucket has none."""

_SUM = len(BOUNDS) + 1
_CLASSES = 6


class Series:
    """The numbers of one function since the server started, whatever its generations.

    They live as long as the function is served, so what no longer exists is no longer shown.

    Attributes:
        durations: seconds to the end of the answer, a histogram for each class of status
            (index 2: 200 to 299).
        first_byte: seconds until the function's answer began.
        errors: answers that the host gave for the function, and WebSockets that it ended, by code.
        limits: requests that a limit ended or turned away, by its key.
        stops: workers that were stopped, by the key of their limit; empty: they would not let go of
            a request that was over, or ran too many processes.
        boots: workers that came up; `boot_s` is what that took them together.
        boot_failures: workers that did not.
        restarts: workers that ended unasked.
        retired: workers that left because they were to be replaced or not needed any more.
        blocked: times that a worker's event loop was seen to stand still.
        retries: requests that were given to a second worker.
        websockets: WebSockets that were opened.
    """

    __slots__ = (
        "blocked", "boot_failures", "boot_s", "boots", "durations", "errors", "first_byte", "limits",
        "restarts", "retired", "retries", "stops", "websockets",
    )  # fmt: skip

    def __init__(self) -> None:
        self.durations = [_histogram() for _ in range(_CLASSES)]
        self.first_byte = _histogram()
        self.errors: dict[str, int] = {}
        self.limits: dict[str, int] = {}
        self.stops: dict[str, int] = {}
        self.boots = self.boot_failures = self.restarts = self.retired = 0
        self.blocked = self.retries = self.websockets = 0
        self.boot_s = 0.0

    def answered(self, status: int, seconds: float, first_s: float) -> None:
        """A request is over.

        Args:
            status: what was sent, 100 to 599.
            seconds: from its head to the end of its answer.
            first_s: to the begin of the function's answer; 0: it gave none.
        """
        histogram = self.durations[status // 100]
        histogram[bisect_left(BOUNDS, seconds)] += 1
        histogram[_SUM] += seconds
        if first_s:
            self.first_byte[bisect_left(BOUNDS, first_s)] += 1
            self.first_byte[_SUM] += first_s

    def erred(self, code: str) -> None:
        """The host answered for the function, or ended its WebSocket."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def exceeded(self, limit: str) -> None:
        """A limit ended a request, or turned it away; `limit` is its key in the configuration."""
        self.limits[limit] = self.limits.get(limit, 0) + 1

    def stopped(self, limit: str) -> None:
        """A worker was stopped; `limit` as in `exceeded`, or empty."""
        self.stops[limit] = self.stops.get(limit, 0) + 1

    def booted(self, seconds: float) -> None:
        """A worker came up."""
        self.boots += 1
        self.boot_s += seconds

    @property
    def requests(self) -> dict[str, int]:
        """How many were answered, by class of status; the usual classes always."""
        counts = {f"{index}xx": count(histogram) for index, histogram in enumerate(self.durations)}
        return {name: number for name, number in counts.items() if number or name in ("2xx", "4xx", "5xx")}


def _histogram() -> list[float]:
    """A count for each bucket, and then the sum of what was observed."""
    return [*[0] * _SUM, 0.0]


def count(histogram: list[float]) -> int:
    """How many observations it has."""
    return int(sum(histogram[:_SUM]))


def total(histogram: list[float]) -> float:
    """The sum of its observations."""
    return histogram[_SUM]


def cumulated(histogram: list[float]) -> list[tuple[float, int]]:
    """Upper bound and number of observations up to it; the last bound is infinite."""
    seen, steps = 0, []
    for bound, number in zip((*BOUNDS, float("inf")), histogram[:_SUM], strict=True):
        seen += int(number)
        steps.append((bound, seen))
    return steps
