from __future__ import annotations

import pytest

from bench.closed import Outcome
from bench.results import Load, Results

LOAD = Load("8 clients", 8, ["a"] * 10, [5] * 10)


def outcome(took: float, wait: float = 0.0) -> Outcome:
    return Outcome(took, [wait] * 10 if wait else [], cpu=took, resident=2_000_000)


@pytest.fixture
def results() -> Results:
    """The machine is half as fast in the second round, and a quarter in the third."""
    results = Results("base", ["base", "nobody", "ours", "slow"])
    for slower in (1, 2, 4):
        results.add(LOAD, "base", outcome(4.0 * slower, 0.4 * slower))
        results.add(LOAD, "ours", outcome(1.0 * slower, 0.1 * slower))
    results.add(LOAD, "slow", outcome(8.0))
    return results


def test_ratios_are_of_the_same_round(results: Results) -> None:
    assert results.faster("8 clients", "ours", "base") == 4
    assert results.cheaper("8 clients", "ours", "base") == 4
    assert results.waits("8 clients", "ours", "base") == pytest.approx(0.25)
    assert results.longer("8 clients", "base", "ours") == pytest.approx(600)


def test_what_had_one_round_is_compared_with_that_round(results: Results) -> None:
    assert results.faster("8 clients", "slow", "base") == 0.5


def test_a_row_has_the_medians_of_its_rounds(results: Results) -> None:
    row = results.row("8 clients", "ours")
    assert (row.rate, row.tokens, row.cpu, row.megabytes) == (5, 25, 200, 2)
    assert row.p50 == pytest.approx(200)
    assert row.p99 == pytest.approx(400)


def test_the_table_has_a_line_for_each_and_says_how_it_compares(results: Results) -> None:
    head, load, *lines = results.table().splitlines()
    assert head.split()[:2] == ["texts/s", "tokens/s"]
    assert load.strip() == "8 clients"
    assert [line.split()[0] for line in lines] == ["base", "ours", "slow"]
    assert [line.split()[-1] for line in lines] == ["1.00", "4.00", "0.50"]
