"""What the ways to serve achieved, by load: as a table, and as ratios of one to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from bench.closed import Outcome
from bench.traffic import percentile

_HEAD = ("", "texts/s", "tokens/s", "p50 ms", "p99 ms", "CPU s/1000", "MB", "× padded")


class Load(NamedTuple):
    """Texts, and how many clients ask for them; 0: one call has them all."""

    name: str
    clients: int
    texts: Sequence[str]
    lengths: Sequence[int]


class Row(NamedTuple):
    """What one achieved under a load.

    Attributes:
        rate, tokens: per second; medians of the rounds.
        p50, p99: milliseconds of a text's wait, of all rounds together; 0: none has one of its own.
        cpu: seconds for 1000 texts; the median of the rounds.
        megabytes: the most of all rounds.
    """

    rate: float
    tokens: float
    p50: float
    p99: float
    cpu: float
    megabytes: float


class Results:
    """Outcomes of rounds, in which everything was measured in turns.

    Args:
        base: the name that all others are compared with.
        names: of all that may be measured, in the order of the table.
    """

    def __init__(self, base: str, names: Sequence[str]) -> None:
        self._base, self._names = base, names
        self._found: dict[str, dict[str, list[Outcome]]] = {}
        self._loads: dict[str, Load] = {}

    def add(self, load: Load, name: str, outcome: Outcome) -> None:
        """One round of one of them."""
        self._found.setdefault(load.name, {}).setdefault(name, []).append(outcome)
        self._loads[load.name] = load

    @property
    def loads(self) -> list[str]:
        return list(self._found)

    def names(self, load: str) -> list[str]:
        """Who was measured under this load."""
        return [name for name in self._names if name in self._found[load]]

    def row(self, load: str, name: str) -> Row:
        """What one achieved."""
        outcomes = self._found[load][name]
        texts, tokens = len(self._loads[load].texts), sum(self._loads[load].lengths)
        took = median(outcome.took for outcome in outcomes)
        waits = [1000 * wait for outcome in outcomes for wait in outcome.waits]
        return Row(
            rate=texts / took,
            tokens=tokens / took,
            p50=median(waits) if waits else 0.0,
            p99=percentile(waits, 99) if waits else 0.0,
            cpu=1000 * median(outcome.cpu for outcome in outcomes) / texts,
            megabytes=max(outcome.resident for outcome in outcomes) / 1e6,
        )

    def faster(self, load: str, name: str, other: str) -> float:
        """How many times as fast one is: the median of the rounds' own ratios."""
        return self._over_rounds(load, name, other, lambda one, two: two.took / one.took)

    def cheaper(self, load: str, name: str, other: str) -> float:
        """How many times the CPU of one the other takes, by rounds."""
        return self._over_rounds(load, name, other, lambda one, two: two.cpu / one.cpu)

    def waits(self, load: str, name: str, other: str) -> float:
        """The median wait of one over that of another, by rounds."""
        return self._over_rounds(load, name, other, lambda one, two: median(one.waits) / median(two.waits))

    def longer(self, load: str, name: str, other: str) -> float:
        """Milliseconds that the median wait of one is longer, by rounds."""
        return 1000 * self._over_rounds(
            load, name, other, lambda one, two: median(one.waits) - median(two.waits)
        )

    def _over_rounds(
        self, load: str, name: str, other: str, compare: Callable[[Outcome, Outcome], float]
    ) -> float:
        pairs = zip(self._found[load][name], self._found[load][other], strict=False)
        return median(compare(one, two) for one, two in pairs)

    def table(self) -> str:
        """All of it, in aligned columns."""
        lines: list[tuple[str, ...]] = [_HEAD]
        for load in self.loads:
            lines.append((load, *[""] * (len(_HEAD) - 1)))
            lines += [self._cells(load, name) for name in self.names(load)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
        return "\n".join(_aligned(line, widths) for line in lines)

    def _cells(self, load: str, name: str) -> tuple[str, ...]:
        row = self.row(load, name)
        waits = [f"{row.p50:.1f}", f"{row.p99:.0f}"] if row.p50 else ["", ""]
        cpu, megabytes = f"{row.cpu:.1f}", f"{row.megabytes:.0f}"
        ratio = f"{self.faster(load, name, self._base):.2f}"
        return (f"  {name}", f"{row.rate:.1f}", f"{row.tokens:,.0f}", *waits, cpu, megabytes, ratio)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"  {cells[0].ljust(len(first))}  {'  '.join(others)}".rstrip()
