from __future__ import annotations

import math
import random

import pytest

from bench.trend import slope, sparkline

TIMES = [float(moment) for moment in range(60)]


def test_a_straight_line_is_found_for_certain() -> None:
    found = slope(TIMES, [3.0 * moment + 7 for moment in TIMES])
    assert found.value == pytest.approx(3.0)
    assert found.doubt == pytest.approx(0.0, abs=1e-9)


def test_what_stays_does_not_grow() -> None:
    assert slope(TIMES, [5.0] * 60) == (0.0, 0.0)


@pytest.mark.parametrize("truth", [0.0, 0.5])
def test_noise_makes_it_doubtful_and_the_truth_is_within_the_doubt(truth: float) -> None:
    chance = random.Random(1)
    found = [slope(TIMES, [truth * moment + chance.gauss(0, 1) for moment in TIMES]) for _ in range(50)]
    near = sum(math.fabs(each.value - truth) <= 2 * each.doubt for each in found)
    assert near >= 40
    assert min(each.doubt for each in found) > 0


def test_a_picture_goes_from_the_least_to_the_most() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0] * 3) == "▁▁▁"
    assert len(sparkline([float(n) for n in range(1000)])) == 24
