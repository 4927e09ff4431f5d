"""The engine's batching policy alone, in virtual time: fairness, padding, throughput.

Nothing runs: a run costs what such runs were measured to cost, clients ask again when they
are answered, and every number comes out the same each time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from bench.table import Number
from bench.texts import FEWEST, LONG, LONG_SHARE, LONGEST, MEDIAN, SIGMA
from runtime.engine.batcher import BUDGET, Item, Policy, Run
from runtime.engine.packing import divide

THREADS = 2
SECONDS = 240.0
BULK = 5000

_AWAY_MS = 0.3  # between an answer and the client's next text
_PART, _PARTS = 64, 4  # a bulk call comes in parts of so many texts, so many at once

CLASSES = (16, 32, 64, 128, 256, 512)
"""Longest length, in tokens, of each class of texts that are compared with one another."""

# Milliseconds of one run on one core, by its tokens: gte-small's shape, packed, fp32.
_TOKENS = (0, 8, 32, 128, 512)
_DENSE_MS = (3.6, 5.1, 10.2, 27.7, 105.0)
_ATTENTION_MS = 1.4e-4  # per cell of the rectangles around attention
_TOGETHER = 1.6  # how much faster all of two cores are than one


def run_ms(lengths: Sequence[int], alone: bool = False, *, padded: bool = False) -> float:
    """What a run of texts of these lengths takes."""
    tokens = len(lengths) * max(lengths) if padded else sum(lengths)
    at = min(bisect_right(_TOKENS, tokens), len(_TOKENS) - 1)
    slope = (_DENSE_MS[at] - _DENSE_MS[at - 1]) / (_TOKENS[at] - _TOKENS[at - 1])
    dense = _DENSE_MS[at - 1] + slope * (tokens - _TOKENS[at - 1])
    return (dense + _ATTENTION_MS * _squares(lengths, padded)) / (_TOGETHER if alone else 1)


def _squares(lengths: Sequence[int], padded: bool) -> int:
    """Cells that attention works on."""
    near = max(lengths) if padded else divide(np.array(lengths))
    few = [length for length in lengths if length <= near]
    return len(few) * max(few) ** 2 + (len(lengths) - len(few)) * max(lengths) ** 2


def mix(seed: int = 1) -> Iterator[int]:
    """Lengths of texts without end: lognormal, and a few long ones."""
    chance = random.Random(seed)
    while True:
        if chance.random() < LONG_SHARE:
            yield chance.randint(*LONG)
        else:
            yield max(FEWEST, min(LONGEST, round(chance.lognormvariate(math.log(MEDIAN), SIGMA))))


class Server(Protocol):
    """What is compared: `Policy`, or another way to serve."""

    padded: bool

    def add(self, items: Sequence[Item]) -> None: ...
    def next(self) -> Run | None: ...
    def ended(self, run: Run) -> None: ...


class Ours:
    """The engine's own policy."""

    padded = False

    def __init__(self, packs: bool = True, budget: int = BUDGET) -> None:
        self._policy = Policy(THREADS, budget)
        self._packs = packs
        self.next, self.ended = self._policy.next, self._policy.ended

    def add(self, items: Sequence[Item]) -> None:
        self._policy.queue.add(item._replace(packs=self._packs) for item in items)


class InOrder:
    """As texts arrive, so many at once, padded to the longest of them."""

    padded = True

    def __init__(self, at_once: int) -> None:
        self._waiting: list[Item] = []
        self._free, self._at_once = THREADS, at_once

    def add(self, items: Sequence[Item]) -> None:
        self._waiting += items

    def next(self) -> Run | None:
        if not self._free or not self._waiting:
            return None
        items, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
        self._free -= 1
        return Run(items, 1, False)

    def ended(self, run: Run) -> None:
        self._free += 1


class Outcome(NamedTuple):
    """What came of some minutes of load.

    Attributes:
        waits: milliseconds from asking to answer, of the clients' texts, by their length.
        bulk_ms: how long the bulk call took; 0: there was none.
        worked: tokens that were computed; `tokens`: those that were wanted.
    """

    waits: list[tuple[int, float]]
    bulk_ms: float
    tokens: int
    worked: int
    texts_per_second: float

    def percentile(self, share: float, most: int = LONGEST, least: int = 0) -> float:
        """Of the waits of texts of more than `least` and at most `most` tokens."""
        waits = sorted(wait for length, wait in self.waits if least < length <= most)
        return waits[min(len(waits) - 1, int(share * len(waits)))]


class _Load:
    """Clients that ask again when they are answered, and perhaps one bulk call beside them."""

    def __init__(self, server: Server, clients: int, bulk: int, seed: int) -> None:
        self.server, self.now = server, 0.0
        self.waits: list[tuple[int, float]] = []
        self.served = self.tokens = self.worked = 0
        self._lengths, self._calls = mix(seed), itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._open: dict[int, tuple[int, float, int]] = {}  # of each call: texts, since, length or 0
        self._rest = [next(self._lengths) for _ in range(bulk)]
        self._parts, self.bulk_ms = 0, 0.0
        for number in range(clients):
            self._later(number * _AWAY_MS, self._ask)
        for _ in range(_PARTS):
            self._later(0, self._ask_part)

    def run(self, milliseconds: float) -> None:
        """Until that time, or, with a bulk call, until its end."""
        bulk = bool(self._rest)
        while (self._rest or self._parts) if bulk else self.now < milliseconds:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            while run := self.server.next():
                self._start(run)

    def _later(self, delay: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), happen))

    def _ask(self) -> None:
        length, call = next(self._lengths), next(self._calls)
        self._open[call] = 1, self.now, length
        self.server.add([Item(call, 0, length)])

    def _ask_part(self) -> None:
        if part := sorted(self._rest[:_PART], reverse=True):
            self._rest, call = self._rest[_PART:], next(self._calls)
            self._open[call] = len(part), self.now, 0
            self._parts += 1
            self.server.add([Item(call, place, length, turn="bulk") for place, length in enumerate(part)])

    def _start(self, run: Run) -> None:
        lengths = [item.length for item in run.items]
        self.tokens += sum(lengths)
        self.worked += len(lengths) * max(lengths) if self.server.padded else sum(lengths)
        self._later(run_ms(lengths, run.alone, padded=self.server.padded), lambda: self._end(run))

    def _end(self, run: Run) -> None:
        self.server.ended(run)
        self.served += len(run.items)
        for item in run.items:
            texts, since, length = self._open.pop(item.call)
            if texts > 1:
                self._open[item.call] = texts - 1, since, length
            elif length:
                self.waits.append((length, self.now - since))
                self._later(_AWAY_MS, self._ask)
            else:
                self._parts, self.bulk_ms = self._parts - 1, self.now
                self._later(_AWAY_MS, self._ask_part)


def simulate(
    server: Server, clients: int, *, bulk: int = 0, seconds: float = SECONDS, seed: int = 1
) -> Outcome:
    """Clients with one text each at a time; for so long, or for as long as the bulk call takes."""
    load = _Load(server, clients, bulk, seed)
    load.run(seconds * 1000)
    rate = load.served / load.now * 1000
    return Outcome(load.waits, load.bulk_ms, load.tokens, load.worked, rate)


def padding(at_once: int, texts: int = BULK, *, by_length: bool = False) -> float:
    """Padded over real tokens, of batches of so many texts, in arrival order or sorted."""
    lengths = list(itertools.islice(mix(), texts))
    if by_length:
        lengths.sort()
    batches = [lengths[start : start + at_once] for start in range(0, texts, at_once)]
    return sum(len(batch) * max(batch) for batch in batches) / sum(lengths)


def measure() -> list[Number]:
    """All of it, in a few seconds."""
    return [*_throughput(), *_fairness(), *_beside_bulk(), *_padding()]


def _throughput() -> list[Number]:
    numbers = []
    for clients, least in ((1, 1.2), (8, 1.05), (32, 1.15), (128, 1.15)):
        ours, each = simulate(Ours(), clients), simulate(InOrder(1), clients)
        ratio = ours.texts_per_second / each.texts_per_second
        numbers += [
            Number(
                what=f"{clients} clients: texts/s; baseline: one by one",
                value=ours.texts_per_second,
                unit="/s",
                baseline=each.texts_per_second,
            ),
            Number(what=f"{clients} clients: against one by one", value=ratio, unit="×", least=least),
        ]
    naive = simulate(InOrder(32), 32).texts_per_second
    best = simulate(Ours(), 32).texts_per_second
    return [*numbers, Number(what="32 clients: against padded 32", value=best / naive, unit="×", least=2.5)]


def _fairness(clients: int = 32) -> list[Number]:
    ours, each = simulate(Ours(), clients), simulate(InOrder(1), clients)
    numbers = []
    for least, most in itertools.pairwise((0, *CLASSES)):
        what = f"{clients} clients, {least + 1} to {most} tokens"
        p50, p99 = (ours.percentile(share, most, least) for share in (0.5, 0.99))
        base50, base99 = (each.percentile(share, most, least) for share in (0.5, 0.99))
        numbers += [
            Number(what=f"{what}: p50", value=p50, unit="ms", baseline=base50),
            Number(what=f"{what}: p99", value=p99, unit="ms", baseline=base99),
            Number(what=f"{what}: p99 over p50", value=p99 / p50, unit="×", most=2.5),
        ]
    return numbers


def _beside_bulk(clients: int = 8) -> list[Number]:
    without, beside = simulate(Ours(), clients), simulate(Ours(), clients, bulk=BULK)
    alone = simulate(Ours(), 0, bulk=BULK)
    what = f"{clients} clients beside {BULK} texts in one call"
    p99, base99 = beside.percentile(0.99), without.percentile(0.99)
    return [
        Number(
            what=f"{what}: p50", value=beside.percentile(0.5), unit="ms", baseline=without.percentile(0.5)
        ),
        Number(what=f"{what}: p99", value=p99, unit="ms", baseline=base99),
        Number(what=f"{what}: p99 over that without", value=p99 / base99, unit="×", most=2.0),
        Number(
            what="that call: texts/s; baseline: without the clients",
            value=BULK / beside.bulk_ms * 1000,
            unit="/s",
            baseline=BULK / alone.bulk_ms * 1000,
        ),
    ]


def _padding() -> list[Number]:
    ours = simulate(Ours(), 32)
    return [
        Number(what="computed over wanted tokens: ours", value=ours.worked / ours.tokens, unit="×", most=1.0),
        *(
            Number(
                what=f"the same, padded batches of {at_once}; baseline: sorted by length",
                value=padding(at_once),
                unit="×",
                baseline=padding(at_once, by_length=True),
            )
            for at_once in (8, 32, 64, 256)
        ),
    ]
