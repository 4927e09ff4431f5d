"""How many workers there should be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import process
from runtime.gateway import scaling
from runtime.gateway.scaling import PATIENCE_S, Bounds, Demand, Holding, gives_way, superfluous, wanted
from runtime.project.settings import Limits

bounds = st.builds(
    lambda least, more, oneshot: Bounds(least, max(least + more, 1), oneshot),
    st.integers(0, 5),
    st.integers(0, 20),
    st.booleans(),
)
demands = st.builds(
    Demand,
    ready=st.integers(0, 20),
    busy=st.integers(0, 20),
    booting=st.integers(0, 5),
    leaving=st.integers(0, 5),
    room=st.integers(1, 100),
    queued=st.integers(0, 600),
    waited_s=st.floats(0, 30),
).filter(lambda demand: demand.busy <= demand.ready)


@given(bounds, demands)
def test_there_are_never_more_than_the_most(bounds: Bounds, demand: Demand) -> None:
    count = wanted(bounds, demand)
    assert count >= 0
    if count:
        assert demand.ready + demand.booting + count <= bounds.most


@given(bounds.filter(lambda bounds: not bounds.oneshot), demands)
def test_what_is_missing_to_the_least_is_added_at_once(bounds: Bounds, demand: Demand) -> None:
    assert demand.ready + demand.booting + wanted(bounds, demand) >= bounds.least


@given(bounds, demands)
def test_whoever_waits_has_a_worker_coming_or_all_that_may_be(bounds: Bounds, demand: Demand) -> None:
    processes = demand.ready + demand.booting + demand.leaving * bounds.oneshot
    if demand.queued and not demand.ready and not demand.booting and processes < bounds.most:
        assert wanted(bounds, demand) >= 1


@given(bounds.filter(lambda bounds: not bounds.oneshot), demands)
def test_their_number_doubles_at_most_and_only_for_those_who_waited(bounds: Bounds, demand: Demand) -> None:
    have = demand.ready + demand.booting
    count = wanted(bounds, demand)
    if have >= max(bounds.least, 1) and count:
        assert count <= have
        assert demand.waited_s >= PATIENCE_S
        assert not demand.booting
        assert count * demand.room < demand.queued + demand.room  # no more than there is work for


@given(bounds.filter(lambda bounds: bounds.oneshot), demands)
def test_with_oneshot_each_that_waits_gets_one_and_some_are_spare(bounds: Bounds, demand: Demand) -> None:
    count = wanted(bounds, demand)
    fresh = demand.ready - demand.busy + demand.booting
    assert count <= max(0, demand.queued + bounds.least - fresh)
    assert demand.ready + demand.booting + demand.leaving + count <= bounds.most or not count


@given(
    bounds,
    st.integers(0, 20).flatmap(
        lambda ready: st.tuples(st.just(ready), st.lists(st.floats(0, 1000), max_size=ready))
    ),
    st.floats(0, 500),
)
def test_idle_ones_leave_down_to_the_least(
    bounds: Bounds, workers: tuple[int, list[float]], limit: float
) -> None:
    ready, rests = workers
    count = superfluous(bounds, ready, rests, limit)
    assert count <= sum(rest >= limit for rest in rests)
    if count:
        assert limit
        busy = (ready - len(rests)) * bounds.oneshot
        assert ready - count >= bounds.least + busy


def test_one_that_comes_when_it_is_needed_is_not_sent_away_at_once() -> None:
    """What scale-up adds has just been idle for no time at all."""
    assert superfluous(Bounds(1, 4), 4, [0.0, 0.1, 59.9], 60) == 0
    assert superfluous(Bounds(1, 4), 4, [61, 62, 63, 64], 60) == 3
    assert superfluous(Bounds(0, 4), 1, [61], 60) == 1
    assert superfluous(Bounds(0, 4), 1, [10_000], 0) == 0


@pytest.mark.parametrize(
    ("limits", "oneshot", "expected"),
    [
        (Limits(), False, (1, process.cores())),
        (Limits(min_workers=50), False, (50, 50)),
        (Limits(max_workers=3), False, (1, 3)),
        (Limits(max_workers=0), False, (1, 2**31 - 1)),
        (Limits(), True, (1, 100)),
        (Limits(max_workers=3), True, (1, 3)),
    ],
)
def test_what_the_configuration_means(limits: Limits, oneshot: bool, expected: tuple[int, int]) -> None:
    assert scaling.bounds_of(limits, oneshot=oneshot) == (*expected, oneshot)


holdings = st.lists(
    st.builds(Holding, st.integers(0, 9), st.integers(-1, 5), st.none() | st.floats(0, 100, allow_nan=False)),
    max_size=6,
)


@given(holdings)
def test_only_an_idle_one_beyond_the_least_gives_way_and_the_one_that_rested_longest(
    holdings: list[Holding],
) -> None:
    fits = [holding.idle_s for holding in holdings if holding.surplus > 0 and holding.idle_s is not None]
    found = gives_way(holdings, starving=False)
    assert (found is None) == (not fits)
    if found is not None:
        assert holdings[found].idle_s == max(fits)
        assert holdings[found].surplus > 0


@given(holdings)
def test_for_a_function_without_any_other_idle_ones_do_and_then_busy_ones(holdings: list[Holding]) -> None:
    found = gives_way(holdings, starving=True)
    gentle = gives_way(holdings, starving=False)
    if gentle is not None:
        assert found == gentle
    elif any(holding.idle_s is not None for holding in holdings):
        assert found is not None
        assert holdings[found].idle_s is not None
    else:
        assert (found is None) == all(holding.surplus <= 0 for holding in holdings)
