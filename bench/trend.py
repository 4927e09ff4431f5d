"""Whether something grows: straight lines through series, and series as little pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_BARS = "▁▂▃▄▅▆▇█"
_BLOCKS = 10


class Slope(NamedTuple):
    """Of a straight line through a series.

    Attributes:
        doubt: its standard error.
    """

    value: float
    doubt: float


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The line of least squares.

    It goes through the means of ten blocks of neighbours, because neighbours resemble one another:
    taken one by one they would make it look surer than it is.

    Args:
        times, values: at least 30 of each, in order.
    """
    size = len(times) / _BLOCKS
    blocks = [slice(round(index * size), round((index + 1) * size)) for index in range(_BLOCKS)]
    x = [statistics.fmean(times[block]) for block in blocks]
    y = [statistics.fmean(values[block]) for block in blocks]
    line = statistics.linear_regression(x, y)
    rest = sum((b - line.slope * a - line.intercept) ** 2 for a, b in zip(x, y, strict=True))
    middle = statistics.fmean(x)
    return Slope(line.slope, math.sqrt(rest / (_BLOCKS - 2) / sum((a - middle) ** 2 for a in x)))


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The course of a series; from the least to the most, so that small changes show."""
    step = max(1.0, len(values) / width)
    places = [values[int(index * step)] for index in range(min(width, len(values)))]
    least, most = min(places), max(places)
    scale = (len(_BARS) - 1) / (most - least) if most > least else 0.0
    return "".join(_BARS[round((value - least) * scale)] for value in places)
