"""When a process that died is started again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.supervisor.backoff import HEALTHY_AFTER_S, LONGEST_S, Backoff


def test_the_first_death_costs_no_time_and_the_next_ever_more_up_to_five_seconds() -> None:
    backoff = Backoff()
    waits = [backoff.delay(0.5) for _ in range(9)]
    assert waits == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])


def test_a_healthy_life_makes_up_for_everything_before_it() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff.delay(0.1)
    assert backoff.delay(HEALTHY_AFTER_S) == 0
    assert [backoff.delay(0.1) for _ in range(2)] == [0, 0.1]


@given(st.lists(st.floats(min_value=0, max_value=1e9), max_size=2000))
def test_no_wait_is_negative_or_longer_than_the_longest(lives: list[float]) -> None:
    backoff = Backoff()
    assert all(0 <= backoff.delay(life) <= LONGEST_S for life in lives)


def test_a_process_that_has_died_for_years_can_still_be_started() -> None:
    backoff = Backoff(failures=100_000)
    assert backoff.delay(0.1) == LONGEST_S
