"""How long to wait before the next worker, when the last ones failed."""

from __future__ import annotations

import pytest

from runtime.gateway.crashes import Crashes


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crashes(clock: Clock) -> Crashes:
    return Crashes(clock)


def waits(crashes: Crashes, clock: Clock, count: int, *, used: bool = False) -> list[float]:
    """What one waits after each of so many workers that die as soon as they are ready."""
    found = []
    for _ in range(count):
        clock.now += max(crashes.waiting, 0) + 0.01
        crashes.died(clock.now, used=used)
        found.append(round(max(crashes.waiting, 0), 3))
    return found


def test_every_death_makes_the_wait_longer_up_to_half_a_minute(crashes: Crashes, clock: Clock) -> None:
    assert waits(crashes, clock, 5) == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert waits(crashes, clock, 20)[-1] == 30.0


def test_every_failed_boot_too(crashes: Crashes) -> None:
    found = []
    for _ in range(60):
        crashes.boot_failed()
        found.append(round(crashes.waiting, 3))
    assert found[:3] == [0.1, 0.2, 0.4]
    assert found[-1] == 30.0


def test_those_that_die_of_their_requests_are_replaced_at_once_and_soon_with_a_breath_between(
    crashes: Crashes, clock: Clock
) -> None:
    assert waits(crashes, clock, 5, used=True) == [0, 0, 0.2, 0.2, 0.2]


def test_three_in_a_row_are_a_state(crashes: Crashes, clock: Clock) -> None:
    waits(crashes, clock, 2, used=True)
    assert not crashes.failing
    waits(crashes, clock, 1)
    assert crashes.failing


def test_those_that_end_together_count_once(crashes: Crashes, clock: Clock) -> None:
    born = clock.now
    clock.now += 1
    for _ in range(5):
        crashes.died(born, used=False)
    assert not crashes.failing
    assert crashes.waiting == pytest.approx(0.1)


def test_a_worker_that_lived_for_long_is_no_sign_of_a_loop(crashes: Crashes, clock: Clock) -> None:
    waits(crashes, clock, 4)
    clock.now += 60
    crashes.died(clock.now - 6, used=False)
    assert not crashes.failing
    assert crashes.waiting <= 0


def test_a_boot_that_succeeds_ends_a_row_of_failed_boots_but_not_of_deaths(
    crashes: Crashes, clock: Clock
) -> None:
    for _ in range(3):
        crashes.boot_failed()
    crashes.came_up()
    assert not crashes.failing
    waits(crashes, clock, 3)
    crashes.came_up()
    assert crashes.failing


def test_all_is_well_again_when_nothing_went_wrong_for_a_while(crashes: Crashes, clock: Clock) -> None:
    waits(crashes, clock, 3)
    clock.now += 4
    crashes.look()
    assert crashes.failing
    clock.now += 2
    crashes.look()
    assert not crashes.failing


def test_a_wait_is_no_time_without_trouble(crashes: Crashes, clock: Clock) -> None:
    """The next worker has only just come up when all are there again."""
    expected = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    for wait in expected:
        clock.now += 0.3
        crashes.died(clock.now, used=False)
        assert crashes.waiting == pytest.approx(wait)
        clock.now = crashes.retry_at + 0.01
        crashes.came_up()
        crashes.look()
    clock.now += 6
    crashes.came_up()  # another, beside it
    crashes.look()
    assert not crashes.failing
