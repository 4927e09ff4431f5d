"""Numbers, as people and programs read them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Number(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured thing.

    Attributes:
        baseline: the same thing without us, measured in the same run.
        most, least: the bound that was promised; None: there is none.
        digits: behind the point; None: as many as make sense for a number of its size.
    """

    what: str
    value: float
    unit: str
    baseline: float | None = None
    most: float | None = None
    least: float | None = None
    digits: int | None = None

    @property
    def bound(self) -> str:
        """The bound in words; empty without one."""
        if self.most is not None:
            return f"≤ {_digits(self.most)} {self.unit}".rstrip()
        return f"≥ {_digits(self.least)} {self.unit}".rstrip() if self.least is not None else ""

    @property
    def met(self) -> bool:
        """It is within its bound, or has none."""
        above = self.most is not None and self.value > self.most
        below = self.least is not None and self.value < self.least
        return not above and not below


def render(numbers: Sequence[Number]) -> str:
    """The numbers in aligned columns."""
    rows = [("", "measured", "baseline", "bound", "")]
    for number in numbers:
        baseline = "" if number.baseline is None else _with_unit(number.baseline, number)
        verdict = ("ok" if number.met else "MISSED") if number.bound else ""
        rows.append((number.what, _with_unit(number.value, number), baseline, number.bound, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: tuple[str, ...], widths: Sequence[int]) -> str:
    what, *cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return f"  {row[0].ljust(len(what))}  {'  '.join(cells)}".rstrip()


def _with_unit(value: float, number: Number) -> str:
    digits = _digits(value) if number.digits is None else f"{value:.{number.digits}f}"
    return f"{digits} {number.unit}".rstrip()


def _digits(value: float | None) -> str:
    if value is None:
        return ""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < 1 - value < 0.01:
        return f"{value:.5f}".rstrip("0")
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
