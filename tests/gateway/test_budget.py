"""What the workers of all functions may take together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.gateway.budget import Budget
from runtime.gateway.scaling import Holding

MB = 1 << 20


class Played:
    """A pool that wants one worker for each request that waits. `searched` counts looks at what it has."""

    def __init__(
        self, budget: Budget, workers: int, *, least: int = 1, idle: int = 0, queued: int = 0
    ) -> None:
        self.least, self.idle, self.queued = least, idle, queued
        self.memory = self.largest = 0
        self.relieved = self.searched = 0
        self.budget = budget
        budget.join(self)
        self.workers = workers

    @property
    def workers(self) -> int:
        return self._workers

    @workers.setter
    def workers(self, count: int) -> None:
        self._workers = count
        self.budget.holds(self, count)

    def holding(self) -> Holding:
        self.searched += 1
        return Holding(self.workers, self.workers - self.least, 1.0 if self.idle else None)

    def give_way(self) -> None:
        self.workers -= 1
        self.idle -= self.idle > 0

    def relieve(self) -> None:
        self.relieved += 1

    def attend(self) -> None:
        granted = self.budget.grant(self, self.queued)
        self.workers += granted
        self.queued -= granted


class Soon:
    """What the budget does in the next turn of the event loop."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def turn(self) -> None:
        while self._calls:
            self._calls.pop()()


@pytest.fixture
def soon() -> Soon:
    return Soon()


@pytest.fixture
def budget(soon: Soon) -> Budget:
    return Budget(soon=soon)


def test_without_limits_everything_is_granted(budget: Budget) -> None:
    assert budget.grant(Played(budget, 50), 7) == 7
    assert budget.room() is None


def test_there_are_never_more_than_the_limit(budget: Budget) -> None:
    budget.configure(5, 0)
    first, second = Played(budget, 2, queued=9), Played(budget, 1)
    assert budget.room() == 2
    assert budget.grant(first, 4) == 2
    first.workers = 4
    assert budget.grant(first, 1) == budget.grant(second, 1) == 0


def test_an_idle_worker_of_another_function_leaves_for_those_who_wait(budget: Budget) -> None:
    budget.configure(4, 0)
    rich, poor = Played(budget, 3, idle=3), Played(budget, 1, queued=5)
    assert budget.grant(poor, 1) == 1
    assert rich.workers == 2
    assert budget.grant(poor, 2) == 2  # the place that came free, and one more
    assert rich.workers == 1


def test_nobody_leaves_for_a_function_where_nobody_waits(budget: Budget) -> None:
    budget.configure(3, 0)
    rich, poor = Played(budget, 3, idle=3), Played(budget, 0)
    assert budget.grant(poor, 1) == 0
    assert rich.workers == 3


def test_a_function_without_any_worker_gets_one_even_of_those_that_others_keep(budget: Budget) -> None:
    budget.configure(1, 0)
    kept, starving = Played(budget, 1, idle=1), Played(budget, 0, queued=1)
    assert budget.grant(starving, 1) == 1
    assert kept.workers == 0


def test_a_pool_that_left_takes_nothing(budget: Budget) -> None:
    budget.configure(1, 0)
    gone = Played(budget, 1)
    budget.leave(gone)
    budget.leave(gone)
    assert budget.room() == 1


def test_over_the_memory_nothing_is_added(budget: Budget) -> None:
    budget.configure(0, 100)
    pool = Played(budget, 1, queued=1)
    pool.memory = 99 * MB
    assert budget.grant(pool, 1) == 1
    pool.memory = 100 * MB
    assert budget.grant(pool, 1) == 0


def test_over_the_memory_idle_workers_leave_and_then_the_largest_is_replaced(soon: Soon) -> None:
    now = 1000.0
    budget = Budget(lambda: now, soon)
    budget.configure(0, 100)
    idle, large = Played(budget, 2, idle=1), Played(budget, 1)
    budget.look()
    assert (idle.workers, large.relieved) == (2, 0)
    large.memory = large.largest = 120 * MB
    budget.look()
    assert (idle.workers, large.relieved) == (1, 0)
    budget.look()
    assert large.relieved == 0  # what just left may be all that was too much
    now += 11
    budget.look()
    assert (idle.relieved, large.relieved) == (0, 1)


# --- the line -----------------------------------------------------------------------------


def test_those_in_line_are_served_in_the_order_of_their_coming(budget: Budget, soon: Soon) -> None:
    budget.configure(2, 0)
    rich = Played(budget, 2, least=2)
    line = [Played(budget, 0, queued=1) for _ in range(3)]
    for pool in line:
        pool.attend()
    assert [pool.workers for pool in line] == [0, 0, 0]
    line[2].attend()  # asking again is no way to the front
    for expected in ([1, 0, 0], [1, 1, 0]):
        rich.workers -= 1
        soon.turn()
        assert [pool.workers for pool in line] == expected


def test_those_without_any_worker_come_before_those_who_want_more(budget: Budget, soon: Soon) -> None:
    budget.configure(2, 0)
    first, more = Played(budget, 1), Played(budget, 1, queued=2)
    more.attend()
    starving = Played(budget, 0, queued=1)
    starving.attend()
    first.workers -= 1
    soon.turn()
    assert (starving.workers, more.workers) == (1, 1)


def test_who_gets_a_place_and_wants_more_goes_to_the_end(budget: Budget, soon: Soon) -> None:
    budget.configure(4, 0)
    rich = Played(budget, 2, least=2)
    greedy, other = (Played(budget, 1, queued=count) for count in (3, 1))
    greedy.attend()
    other.attend()
    for expected in ([2, 1], [2, 2]):
        rich.workers -= 1
        soon.turn()
        assert [greedy.workers, other.workers] == expected


def test_who_waits_no_more_is_passed_over(budget: Budget, soon: Soon) -> None:
    budget.configure(1, 0)
    rich = Played(budget, 1)
    gone, left, waiting = (Played(budget, 0, queued=1) for _ in range(3))
    for pool in (gone, left, waiting):
        pool.attend()
    gone.queued = 0
    budget.leave(left)
    rich.workers -= 1
    soon.turn()
    assert [pool.workers for pool in (gone, left, waiting)] == [0, 0, 1]
    assert not budget.is_in_line(gone)


def test_a_worker_that_has_nothing_to_do_any_more_leaves_for_who_stands_in_line(
    budget: Budget, soon: Soon
) -> None:
    budget.configure(1, 0)
    busy, starving = Played(budget, 1), Played(budget, 0, queued=1)
    starving.attend()
    busy.idle = 1
    budget.rested(busy)
    soon.turn()
    assert (busy.workers, starving.workers) == (0, 1)


def test_memory_that_has_come_back_is_noticed(budget: Budget) -> None:
    budget.configure(0, 100)
    large, starving = Played(budget, 1), Played(budget, 0, queued=1)
    large.memory = 100 * MB
    starving.attend()
    budget.look()
    assert starving.workers == 0
    large.memory = 10 * MB
    budget.look()
    assert starving.workers == 1


def test_standing_in_line_costs_the_same_however_many_do(budget: Budget, soon: Soon) -> None:
    """300 functions share 10 workers that are never idle, and each asks again and again."""
    budget.configure(10, 0)
    busy = [Played(budget, 1) for _ in range(10)]
    line = [Played(budget, 0, queued=1) for _ in range(300)]
    for _ in range(20):
        for pool in line:
            pool.attend()
    for pool in busy:
        budget.rested(pool)
        soon.turn()
    searched = sum(pool.searched for pool in (*busy, *line))
    assert searched <= 25 * 310  # the first in line looks at all of them when it asks; no other does
