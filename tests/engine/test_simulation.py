"""The policy under load, in virtual time: the same numbers on every machine."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.policy import (
    BULK,
    CLASSES,
    InOrder,
    Ours,
    Outcome,
    measure,
    mix,
    padding,
    run_ms,
    simulate,
)


@pytest.fixture(scope="module")
def busy() -> Outcome:
    """32 clients for two minutes."""
    return simulate(Ours(), 32, seconds=120)


def test_it_comes_out_the_same_every_time() -> None:
    assert simulate(Ours(), 8, seconds=5) == simulate(Ours(), 8, seconds=5)


def test_nothing_is_computed_that_nobody_wanted(busy: Outcome) -> None:
    assert busy.worked == busy.tokens


@pytest.mark.parametrize("most", CLASSES)
def test_texts_of_a_length_wait_about_alike(busy: Outcome, most: int) -> None:
    least = dict(pairwise(CLASSES[::-1])).get(most, 0)
    assert busy.percentile(0.99, most, least) <= 2.5 * busy.percentile(0.5, most, least)


@pytest.mark.parametrize("clients", [8, 32, 128])
def test_batches_of_near_lengths_beat_one_by_one(clients: int) -> None:
    ours, each = (simulate(way, clients, seconds=60) for way in (Ours(), InOrder(1)))
    assert ours.texts_per_second >= 1.1 * each.texts_per_second


@pytest.mark.parametrize("packs", [True, False])
def test_neither_way_of_ours_is_slower_than_one_by_one(packs: bool) -> None:
    ours, each = (simulate(way, 8, seconds=60) for way in (Ours(packs), InOrder(1)))
    assert ours.texts_per_second >= each.texts_per_second


def test_padding_in_arrival_order_is_worse_than_no_batching() -> None:
    padded, each = (simulate(InOrder(at_once), 32, seconds=60) for at_once in (32, 1))
    assert padded.texts_per_second < 0.5 * each.texts_per_second
    assert padding(32) > 4
    assert padding(32, by_length=True) < 1.1


def test_a_bulk_call_is_felt_but_does_not_starve_anyone() -> None:
    without, beside = simulate(Ours(), 8), simulate(Ours(), 8, bulk=BULK)
    assert beside.percentile(0.99) <= 2 * without.percentile(0.99)
    assert BULK / beside.bulk_ms * 1000 >= 50


def test_a_lone_client_has_every_core() -> None:
    ours, each = (simulate(way, 1, seconds=20) for way in (Ours(), InOrder(1)))
    assert ours.percentile(0.5) <= 0.7 * each.percentile(0.5)


def test_longer_runs_cost_more_but_less_per_token() -> None:
    costs = [run_ms([tokens]) for tokens in (8, 32, 128, 512)]
    assert costs == sorted(costs)
    assert run_ms([32] * 8) < 8 * run_ms([32])
    assert run_ms([8, 120], padded=True) > run_ms([8, 120])


def test_the_mix_is_the_one_that_was_measured() -> None:
    texts = [length for length, _ in zip(mix(), range(5000), strict=False)]
    assert 55 <= sum(texts) / len(texts) <= 67
    assert 30 <= sorted(texts)[2500] <= 36


def test_the_bench_meets_its_bounds() -> None:
    assert [number.what for number in measure() if not number.met] == []
