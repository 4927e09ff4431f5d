"""Workers that had better be replaced."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runtime.gateway.wear import Wear
from runtime.project.settings import Limits

MB = 1 << 20


def worker(**fields: Any) -> Any:
    usual = {"ready_at": 0.0, "served": 0, "in_flight": 0, "memory": 0, "first_memory": 0, "unburied": 0}
    return SimpleNamespace(**usual | fields)


@pytest.mark.parametrize(
    ("limits", "fields", "reason"),
    [
        ({"max_age_s": 60}, {"ready_at": 41.0}, ""),
        ({"max_age_s": 60}, {"ready_at": 40.0}, "wall_clock"),
        ({"max_requests": 5}, {"served": 4}, ""),
        ({"max_requests": 5}, {"served": 5}, "early_drop"),
        ({"memory_mb": 100}, {"first_memory": 20 * MB, "memory": 59 * MB}, ""),
        ({"memory_mb": 100}, {"first_memory": 20 * MB, "memory": 60 * MB}, "memory"),
        ({"memory_mb": 0}, {"first_memory": 20 * MB, "memory": 6000 * MB}, ""),
        ({}, {"ready_at": -1e9, "served": 10**9}, ""),
        ({}, {"unburied": 128}, ""),
        ({}, {"unburied": 129}, "early_drop"),
        ({}, {"unburied": 129, "ready_at": 99.0}, ""),
    ],
)
def test_a_worn_worker_is_found_with_the_reason(
    limits: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    assert Wear(Limits(**limits)).reason(worker(**fields), now=100.0) == reason


def test_what_it_took_after_its_first_request_is_growth() -> None:
    """Nobody had looked at it before."""
    wear = Wear(Limits(memory_mb=96))
    assert wear.reason(worker(served=1, memory=50 * MB), now=100.0) == "memory"


def test_what_one_takes_when_new_is_known_of_the_others_too() -> None:
    wear = Wear(Limits(memory_mb=100))
    assert wear.reason(worker(memory=60 * MB), now=100.0) == ""
    assert wear.reason(worker(served=1, memory=62 * MB), now=101.0) == ""
    assert wear.reason(worker(served=1, memory=81 * MB), now=102.0) == "memory"


def test_a_function_that_needs_so_much_is_not_replaced_all_the_time() -> None:
    wear = Wear(Limits(memory_mb=96))
    reasons = [wear.reason(worker(served=1, memory=50 * MB), now=100.0 + second) for second in range(61)]
    assert reasons.count("memory") == 3
