"""How fast gte-small's shape runs at each precision, on one core and without a server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from bench import gte
from bench.peak import LENGTHS
from bench.table import Number
from bench.texts import lengths

ROUNDS = 5
_BATCH = 8  # texts of the mix, about as many tokens as the engine runs together
_SLICE_S, _RUNS = 0.1, 3  # what each precision gets in a round, at least


def measure(precisions: Sequence[str], rounds: int) -> list[Number]:
    """Of one text and of a batch, as ratios to fp32: medians of rounds in which all take turns."""
    mix = lengths(_BATCH)
    works = {f"a text of {length} tokens": [length] for length in LENGTHS}
    works[f"a batch of {_BATCH} texts, {sum(mix)} tokens"] = mix
    models = {precision: gte.model(gte.GTE, precision) for precision in precisions}
    numbers = []
    for what, wanted in works.items():
        runs = {precision: _run(model.infer, wanted) for precision, model in models.items()}
        times = [{precision: _typical(run) for precision, run in runs.items()} for _ in range(rounds)]
        own = 1000 * median(each["fp32"] for each in times)
        numbers.append(Number(what=f"2 fp32 on one core, {what}", value=own, unit="ms"))
        for precision in precisions[1:]:
            faster = median(each["fp32"] / each[precision] for each in times)
            numbers.append(
                Number(what=f"2 {precision} on one core, {what}: over fp32", value=faster, unit="×")
            )
    return numbers


def _run(infer: Callable[..., object], wanted: Sequence[int]) -> Callable[[], object]:
    from runtime.engine.scheduler import Form

    chance = random.Random(1)
    texts = [chance.choices(range(1000, gte.WORDS), k=length) for length in wanted]
    return partial(infer, texts, [Form()] * len(texts))


def _typical(run: Callable[[], object]) -> float:
    """Seconds of a run, after a first one."""
    run()
    times: list[float] = []
    end = time.perf_counter() + _SLICE_S
    while time.perf_counter() < end or len(times) < _RUNS:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return median(times)
