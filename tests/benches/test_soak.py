"""What the soak makes of what it sees; that it sees the right things, a run shows."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bench.processes import Look
from bench.soak import Sample, failures, returned, slopes

HALF_HOUR = [float(second) for second in range(0, 1800, 15)]


def samples(sizes: list[float]) -> list[Sample]:
    """A gateway of these sizes, and workers that come and go."""
    return [
        Sample(
            at, {1: Look(name="fn-gateway", threads=1, resident=size, proportional=size), 100 + number: BRIEF}
        )
        for number, (at, size) in enumerate(zip(HALF_HOUR, sizes, strict=True))
    ]


BRIEF = Look(name="fn:brief", threads=1, resident=20.0, proportional=5.0)


def growth(mb_per_hour: float) -> list[float]:
    chance = random.Random(7)
    return [50 + mb_per_hour * at / 3600 + chance.gauss(0, 0.3) for at in HALF_HOUR]


@pytest.mark.parametrize(("mb_per_hour", "good"), [(0, True), (-40, True), (40, False)])
def test_a_process_that_grows_is_found(mb_per_hour: float, good: bool) -> None:
    gateway, together = slopes(samples(growth(mb_per_hour)))
    assert gateway.what.startswith("gateway: ")
    assert gateway.value == pytest.approx(mb_per_hour, abs=3)
    assert gateway.met is good
    assert together.value == pytest.approx(mb_per_hour, abs=3)


def test_growth_before_the_second_half_does_not_count() -> None:
    gateway, _ = slopes(samples([min(at, 600.0) / 10 for at in HALF_HOUR]))
    assert gateway.value == 0


def test_a_run_that_is_too_short_says_nothing_of_memory() -> None:
    assert list(slopes(samples(growth(0))[:20])) == []


def test_what_did_not_come_back_is_named() -> None:
    before = Counter({"threads fn-gateway": 3, "descriptors fn-gateway": 20, "tasks fn-gateway": 5})
    after = Counter({"threads fn-gateway": 3, "descriptors fn-gateway": 22, "tasks fn-gateway": 4})
    descriptors, *others = returned(before, after)
    assert (descriptors.value, descriptors.met) == (2, False)
    assert descriptors.what == "descriptors more than the 20 before (2 fn-gateway)"
    assert all(number.met for number in others)


def test_answers_other_than_the_expected_ones_are_failures() -> None:
    [failed] = failures({"hello": {"200": 9, "reset": 1}, "raises": {"500": 3}, "echo": {"101": 2, "200": 1}})
    assert (failed.value, failed.met) == (2, False)
    assert failed.what == "failed, of 16 visits (1 hello reset, 1 echo 200)"
