"""What is counted of one function."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.gateway.metrics import BOUNDS, Series, count, cumulated, total


def answered(*seconds: float, status: int = 200, first_s: float = 0.0) -> Series:
    series = Series()
    for number in seconds:
        series.answered(status, number, first_s)
    return series


@given(st.lists(st.floats(0, 1000)))
def test_every_request_is_in_the_buckets_of_all_bounds_that_it_does_not_exceed(seconds: list[float]) -> None:
    steps = cumulated(answered(*seconds).durations[2])
    assert [bound for bound, _ in steps] == [*BOUNDS, float("inf")]
    assert [number for _, number in steps] == [sum(it <= bound for it in seconds) for bound, _ in steps]


def test_a_histogram_knows_how_much_it_has_seen() -> None:
    histogram = answered(0.001, 2.0, 500.0).durations[2]
    assert count(histogram) == 3
    assert total(histogram) == pytest.approx(502.001)


@pytest.mark.parametrize(
    ("statuses", "requests"),
    [
        ((), {"2xx": 0, "4xx": 0, "5xx": 0}),
        ((200, 204, 299), {"2xx": 3, "4xx": 0, "5xx": 0}),
        ((304, 404, 499, 546), {"2xx": 0, "3xx": 1, "4xx": 2, "5xx": 1}),
    ],
)
def test_requests_are_counted_by_class_of_status(statuses: Sequence[int], requests: dict[str, int]) -> None:
    series = Series()
    for status in statuses:
        series.answered(status, 0.01, 0.01)
    assert series.requests == requests


def test_only_an_answer_of_the_function_has_a_first_byte() -> None:
    series = answered(0.5, first_s=0.2)
    series.answered(429, 0.001, 0.0)
    assert (count(series.first_byte), total(series.first_byte)) == (1, 0.2)


def test_errors_and_limits_are_counted_by_name() -> None:
    series = Series()
    for code in ("OVERLOADED", "WORKER_ERROR", "OVERLOADED"):
        series.erred(code)
    series.exceeded("cpu_ms")
    assert (series.errors, series.limits) == ({"OVERLOADED": 2, "WORKER_ERROR": 1}, {"cpu_ms": 1})


def test_boots_are_counted_with_their_time() -> None:
    series = Series()
    series.booted(0.25)
    series.booted(0.5)
    assert (series.boots, series.boot_s) == (2, 0.75)
