"""Embeddings at each precision, over HTTP through a function; beside them other ways to serve the same.

All have the same weights (gte-small's shape, random), texts and cores, and take turns. The others
run without a server around them, which is in their favour.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple, Protocol

from bench import accuracy, gte, peak
from bench.closed import Outcome
from bench.ours import Ours, ours
from bench.plot import bars
from bench.policy import CLASSES
from bench.results import Load, Results
from bench.rivals import CORES, ENGINE, NAIVE, OTHERS, PADDED, UNPADDED, Rival, installed
from bench.table import Number
from bench.texts import SHORT, Writer, lengths
from bench.traffic import percentile

LONE, BULK = "a short text, alone", "all in one call"
OURS = {"fp32": "ours, fp32", "bf16": "ours, bf16", "int8": "ours, int8"}
PADDED_LEAST = {"fp32": 2.0, "bf16": 3.3, "int8": 3.5}
UNPADDED_LEAST = {8: 1.0, 32: 1.15, 128: 1.1}
"""By clients, who are what is measured."""

_TURNS = (ENGINE, OURS["fp32"], PADDED, OURS["bf16"], OURS["int8"], UNPADDED)
"""Who comes after whom: those that promises compare are near each other, since the machine's speed drifts."""

_EACH = 4  # texts of a client, at least: of a few, not all clients would be there
_SLOW_CLIENTS = 32  # with more of them the slow ones would take minutes
_FEWEST = 40  # waits that a 99th percentile of a length class is told of
_WARM = 24
_SAME = 0.999  # cosine
_CHECKED = (8, 300)  # tokens: less and more than what is padded to


class Sizes(NamedTuple):
    """How much of everything is measured.

    Attributes:
        rounds: of all but the slow ones, which get one.
        texts: of the mix, unless there are so many clients that they need more; one client
            gets half.
        alone: short texts.
        steady: requests of 32 clients.
        bulk: texts of a call beside 8 clients.
    """

    rounds: int
    texts: int
    alone: int
    steady: int
    bulk: int


FULL, QUICK = Sizes(5, 160, 40, 4000, 5000), Sizes(1, 64, 20, 640, 1000)


class Contender(Protocol):
    """Something that serves texts."""

    name: str

    def serve(self, texts: Sequence[str], clients: int) -> Outcome: ...
    def vectors(self, texts: Sequence[str]) -> list[list[float]]: ...


def measure(quick: bool = False, plot: Path | None = None) -> list[Number]:
    """Print the table; what is promised.

    Args:
        quick: less of everything, for a look: its 99th percentiles mean little.
        plot: where to write the picture.
    """
    sizes = QUICK if quick else FULL
    precisions = accuracy.available()
    for name in OTHERS:
        if not installed(name):
            print(f"  {name}: not installed")
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(ours(precision)) for precision in precisions]
        (engine, *fast), slow = _rivals(stack)
        check(engine, [*mine, *fast, *slow])
        contenders: list[Contender] = [*mine, engine, *fast]
        results = Results(PADDED, [found.name for found in (*contenders, *slow)])
        _rounds(results, loads(sizes), contenders, slow, sizes.rounds)
        print(results.table(), flush=True)
        company = [*_steady(mine[0], sizes), *_beside_bulk(mine[0], sizes)]
    if plot is not None:
        plot.write_text(picture(results))
    shares = _of_peak(peak.measure(gte.folder(gte.GTE), sizes.rounds))
    exactness = accuracy.measure(precisions, sizes.rounds)
    return [*_promises(results, precisions), *exactness, *shares, *company]


def loads(sizes: Sizes) -> list[Load]:
    """What is asked: short texts, then the mix."""
    writer = Writer(gte.tokenizer())
    short = [SHORT[place % len(SHORT)] for place in range(sizes.alone)]
    wanted = [(LONE, 1, short), ("1 client", 1, lengths(sizes.texts // 2))]
    for clients in UNPADDED_LEAST:
        wanted.append((f"{clients} clients", clients, lengths(max(sizes.texts, _EACH * clients))))
    wanted.append((BULK, 0, lengths(sizes.texts)))
    return [Load(name, clients, writer.texts(mix), mix) for name, clients, mix in wanted]


def _rivals(stack: contextlib.ExitStack) -> tuple[list[Rival], list[Rival]]:
    """Those that get all texts, and the slow ones."""

    def begun(name: str) -> Rival:
        rival = Rival(name, gte.folder(gte.GTE), gte.data_home() / gte.GTE)
        stack.callback(rival.stop)
        return rival

    slow = (NAIVE, *filter(installed, OTHERS))
    return [begun(name) for name in (ENGINE, PADDED, UNPADDED)], [begun(name) for name in slow]


def check(engine: Contender, others: Iterable[Contender]) -> None:
    """See that all of them compute the same.

    Raises:
        RuntimeError: the vectors of one are others than the engine's.
    """
    texts = Writer(gte.tokenizer()).texts(_CHECKED)
    expected = engine.vectors(texts)
    for contender in others:
        cosines = accuracy.cosines(contender.vectors(texts), expected)
        if not all(cosine >= _SAME for cosine in cosines):
            raise RuntimeError(
                f"{contender.name} computes something else: cosines {cosines} to {engine.name}"
            )


def _rounds(
    results: Results, loads: Sequence[Load], fast: Sequence[Contender], slow: Sequence[Contender], rounds: int
) -> None:
    _warm(loads, [*fast, *slow])
    fast = sorted(fast, key=lambda contender: _TURNS.index(contender.name))
    for number in range(rounds):
        turn = number % len(fast)
        for load in loads:
            late = slow if number == 0 and load.clients <= _SLOW_CLIENTS else ()
            for contender in (*fast[turn:], *fast[:turn], *late):
                results.add(load, contender.name, contender.serve(load.texts, load.clients))


def _warm(loads: Sequence[Load], contenders: Iterable[Contender]) -> None:
    """Some texts, and for OpenVINO the shapes that it makes a kernel for."""
    most = max((load.texts for load in loads), key=len)
    for contender in contenders:
        contender.serve(loads[0].texts[:_WARM], 1)
        contender.serve(most if contender.name == OURS["bf16"] else most[:_WARM], 8)


def _promises(results: Results, precisions: Sequence[str]) -> list[Number]:
    numbers = []
    for clients, least in UNPADDED_LEAST.items():
        load = f"{clients} clients"
        for precision in precisions:
            numbers += _over(results, load, precision, PADDED, PADDED_LEAST[precision])
        numbers += [
            *_over(results, load, "fp32", UNPADDED, least),
            Number(
                what=f"3 fp32, {load}: of the engine alone",
                value=100 * results.faster(load, OURS["fp32"], ENGINE),
                unit="%",
                least=90.0,
            ),
        ]
    return [
        *numbers,
        Number(
            what="1 p50 of a lone short text, of the padded",
            unit="×",
            most=0.35,
            value=results.waits(LONE, OURS["fp32"], PADDED),
        ),
        Number(
            what="3 p50 of a lone short text, more than the engine alone",
            unit="ms",
            most=0.4,
            value=results.longer(LONE, OURS["fp32"], ENGINE),
        ),
    ]


def _over(results: Results, load: str, precision: str, other: str, least: float) -> list[Number]:
    promise, ours = 1 if precision == "fp32" else 2, OURS[precision]
    what = f"{promise} {precision}, {load}: over {other.rpartition(' ')[2]}"
    return [
        Number(what=what, value=results.faster(load, ours, other), unit="×", least=least),
        Number(what=f"{what}, by CPU", value=results.cheaper(load, ours, other), unit="×"),
    ]


def _of_peak(found: peak.Peak) -> list[Number]:
    return [
        Number(what="4 fastest product on one core, numpy", value=found.numpy / 1e9, unit="GFLOP/s"),
        Number(what="4 the same, onnxruntime", value=found.onnxruntime / 1e9, unit="GFLOP/s"),
        *(
            Number(
                what=f"4 fp32, a text of {length} tokens: of the faster",
                value=100 * share,
                unit="%",
                least=70.0 if length >= 128 else None,
            )
            for length, share in found.shares.items()
        ),
    ]


def _steady(mine: Ours, sizes: Sizes) -> list[Number]:
    mix = lengths(sizes.texts)
    waits: dict[int, list[float]] = defaultdict(list)
    for place, seconds in mine.steady(Writer(gte.tokenizer()).texts(mix), 32, sizes.steady):
        waits[next(limit for limit in CLASSES if mix[place] <= limit)].append(1000 * seconds)
    return [
        Number(
            what=f"5 32 clients, {shorter + 1} to {limit} tokens ({len(waits[limit])} texts): p99 over p50",
            value=percentile(waits[limit], 99) / median(waits[limit]),
            unit="×",
            most=2.5,
        )
        for shorter, limit in pairwise((0, *CLASSES))
        if len(waits[limit]) >= _FEWEST
    ]


def _beside_bulk(mine: Ours, sizes: Sizes) -> list[Number]:
    writer = Writer(gte.tokenizer())
    texts, bulk = (writer.texts(lengths(count)) for count in (sizes.texts, sizes.bulk))
    without = [1000 * sample.seconds for _ in range(3) for sample in mine.clients(texts, 8)]
    waits, took = mine.beside(texts, 8, bulk)
    beside = [1000 * wait for wait in waits]
    what = f"5 8 clients beside a call of {len(bulk)} texts"
    return [
        Number(
            what=f"{what}: p99", value=percentile(beside, 99), unit="ms", baseline=percentile(without, 99)
        ),
        Number(
            what=f"{what}: p99 over that without",
            unit="×",
            most=2.0,
            value=percentile(beside, 99) / percentile(without, 99),
        ),
        Number(what=f"{what}: that call's texts/s", value=len(bulk) / took, unit="/s"),
    ]


def picture(results: Results) -> str:
    """Texts per second of all, by load."""
    rates = {
        load: {name: results.row(load, name).rate for name in results.names(load)} for load in results.loads
    }
    title = f"Embeddings: gte-small's shape, {CORES} cores"
    return bars(title, "texts per second; more is better", rates)
