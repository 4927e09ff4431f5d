"""Texts, threads and results, with a model that only counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engine.scheduler import Form, Pair, Scheduler, Text
from runtime.errors import EngineUnavailable

pytestmark = pytest.mark.anyio


class Counting:
    """Gives each text's first id back; runs only while `gate` is open.

    Attributes:
        broken: it raises for a batch with one of these in it.
        spoilt: it has an exception as the result of these.
    """

    packs = False
    wide = True

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.alone: list[bool] = []
        self.spoilt: set[int] = set()
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()
        self.broken: set[int] = set()

    def infer(
        self, batch: Sequence[Text], forms: Sequence[Form], *, alone: bool = False
    ) -> list[NDArray[np.float32] | Exception]:
        ids = [(text.ids if isinstance(text, Pair) else text)[0] for text in batch]
        self.batches.append(ids)
        self.alone.append(alone)
        self.started.release()
        assert self.gate.wait(10)
        if self.broken & set(ids):
            raise RuntimeError("broken")
        return [
            ValueError(f"{id} is spoilt") if id in self.spoilt else np.full((1, 1), id, dtype=np.float32)
            for id in ids
        ]


@pytest.fixture
def model() -> Counting:
    return Counting()


@pytest.fixture
def scheduler(model: Counting) -> Iterator[Scheduler]:
    made = Scheduler(threads=1, budget=8)
    yield made
    model.gate.set()
    made.close()


async def begun(model: Counting) -> None:
    """A thread is inside the model."""
    await asyncio.to_thread(model.started.acquire)


def texts(*ids: int, length: int = 4) -> list[list[int]]:
    return [[id] * length for id in ids]


async def test_results_come_in_the_order_of_the_texts(scheduler: Scheduler, model: Counting) -> None:
    model.gate.set()
    mixed = [*texts(1, 2, 3), *texts(4, length=2), *texts(5), *texts(6, length=9)]
    rows = await scheduler.run(model, mixed, Form())
    assert [matrix[0, 0] for matrix in rows] == [1, 2, 3, 4, 5, 6]


async def test_no_texts_are_no_work(scheduler: Scheduler, model: Counting) -> None:
    assert await scheduler.run(model, [], Form()) == []
    assert model.batches == []


async def test_what_waits_runs_together_across_calls(scheduler: Scheduler, model: Counting) -> None:
    running = [asyncio.create_task(scheduler.run(model, texts(id), Form())) for id in (1, 2, 3)]
    await begun(model)
    model.gate.set()
    await asyncio.gather(*running)
    assert model.batches == [[1], [2, 3]]


async def test_a_cancelled_call_does_not_run(scheduler: Scheduler, model: Counting) -> None:
    first = asyncio.create_task(scheduler.run(model, texts(1), Form()))
    await begun(model)
    second = asyncio.create_task(scheduler.run(model, texts(2, 3, 4), Form()))
    third = asyncio.create_task(scheduler.run(model, texts(5), Form()))
    await asyncio.sleep(0)
    assert scheduler.waiting == 4
    second.cancel()
    await asyncio.wait([second])
    assert scheduler.waiting == 1
    model.gate.set()
    await asyncio.gather(first, third)
    assert model.batches == [[1], [5]]


async def test_cancelling_what_runs_spoils_nothing(scheduler: Scheduler, model: Counting) -> None:
    first = asyncio.create_task(scheduler.run(model, texts(1), Form()))
    await begun(model)
    first.cancel()
    await asyncio.wait([first])
    model.gate.set()
    rows = await scheduler.run(model, texts(2), Form())
    assert rows[0][0, 0] == 2


async def outcomes(scheduler: Scheduler, model: Counting, *calls: int) -> list[Any]:
    """What single calls get that run together: a number or an error."""
    first = asyncio.create_task(scheduler.run(model, texts(99), Form()))
    await begun(model)
    running = [asyncio.create_task(scheduler.run(model, texts(id, length=2), Form())) for id in calls]
    await asyncio.sleep(0)
    model.gate.set()
    await first
    results = await asyncio.gather(*running, return_exceptions=True)
    return [r if isinstance(r, BaseException) else r[0][0, 0] for r in results]


async def test_one_text_that_breaks_a_batch_fails_alone(scheduler: Scheduler, model: Counting) -> None:
    model.broken = {2}
    one, two, three = await outcomes(scheduler, model, 1, 2, 3)
    assert (one, three) == (1, 3)
    assert isinstance(two, RuntimeError)
    assert model.batches == [[99], [1, 2, 3], [1], [2], [3]]


async def test_one_text_without_a_result_fails_alone(scheduler: Scheduler, model: Counting) -> None:
    model.spoilt = {2}
    one, two, three = await outcomes(scheduler, model, 1, 2, 3)
    assert (one, three) == (1, 3)
    assert str(two) == "2 is spoilt"
    assert model.batches == [[99], [1, 2, 3]]


async def test_a_single_text_that_fails_is_not_run_again(scheduler: Scheduler, model: Counting) -> None:
    model.gate.set()
    model.broken = {1}
    with pytest.raises(RuntimeError, match="broken"):
        await scheduler.run(model, texts(1), Form())
    assert model.batches == [[1]]
    assert len(await scheduler.run(model, texts(2), Form())) == 1


async def test_the_rest_of_a_failed_call_does_not_run(scheduler: Scheduler, model: Counting) -> None:
    model.gate.set()
    model.spoilt = {0}
    with pytest.raises(ValueError, match="0 is spoilt"):
        await scheduler.run(model, texts(*range(10), length=8), Form())
    assert await scheduler.run(model, texts(77), Form())
    assert model.batches == [[0], [77]]


class Short(Counting):
    """Loses a result."""

    def infer(self, *args: Any, **options: Any) -> list[NDArray[np.float32] | Exception]:
        return super().infer(*args, **options)[:-1]


async def test_a_lost_result_is_an_error(scheduler: Scheduler) -> None:
    model = Short()
    model.gate.set()
    with pytest.raises(RuntimeError, match="0 results of 1"):
        await scheduler.run(model, texts(1), Form())


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), StopIteration()])
async def test_whatever_a_model_raises_is_an_error_of_the_call(
    error: BaseException, scheduler: Scheduler, model: Counting
) -> None:
    class Raising(Counting):
        def infer(self, *args: Any, **options: Any) -> list[NDArray[np.float32] | Exception]:
            raise error

    with pytest.raises((EngineUnavailable, RuntimeError)):
        await scheduler.run(Raising(), texts(1), Form())
    model.gate.set()
    assert await scheduler.run(model, texts(2), Form())


async def test_without_threads_calls_fail_at_once(
    scheduler: Scheduler, model: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    model.gate.set()
    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", no_thread)
        with pytest.raises(EngineUnavailable, match="no thread"):
            await scheduler.run(model, texts(*range(20), length=8), Form())
    assert scheduler.waiting == 0
    assert await scheduler.run(model, texts(2), Form())


async def test_closing_fails_whoever_waits_and_whoever_comes(scheduler: Scheduler, model: Counting) -> None:
    first = asyncio.create_task(scheduler.run(model, texts(1), Form()))
    await begun(model)
    second = asyncio.create_task(scheduler.run(model, texts(2), Form()))
    await asyncio.sleep(0)
    scheduler.close()
    for task in (first, second):
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await task
    with pytest.raises(EngineUnavailable):
        await scheduler.run(model, texts(3), Form())
    assert model.batches == [[1]]


async def test_a_lone_text_is_alone_and_those_after_it_are_not(model: Counting) -> None:
    wide = Scheduler(threads=2, budget=100)
    lone = asyncio.create_task(wide.run(model, texts(1), Form()))
    await begun(model)
    others = [asyncio.create_task(wide.run(model, texts(id), Form())) for id in (2, 3)]
    await asyncio.sleep(0)
    assert wide.waiting == 2
    model.gate.set()
    await asyncio.gather(lone, *others)
    wide.close()
    assert model.alone == [True, False, False]
    assert sorted(model.batches) == [[1], [2], [3]]


async def test_a_lone_text_that_cannot_run_wide_leaves_the_other_threads(model: Counting) -> None:
    two, model.wide = Scheduler(threads=2, budget=100), False
    lone = asyncio.create_task(two.run(model, texts(1), Form()))
    await begun(model)
    other = asyncio.create_task(two.run(model, texts(2), Form()))
    await begun(model)
    model.gate.set()
    await asyncio.gather(lone, other)
    two.close()
    assert model.alone == [True, False]  # it is told all the same: the model may want to become wide


async def test_what_may_take_minutes_never_has_every_thread(model: Counting) -> None:
    two, heavy = Scheduler(threads=2, budget=100), Counting()
    heavy.wide = False
    model.gate.set()
    runs = [
        asyncio.create_task(two.run(heavy, texts(id), Form(), owner, heavy=True))
        for id, owner in enumerate("aaab")
    ]
    await begun(heavy)
    async with asyncio.timeout(10):
        await two.run(model, texts(77), Form())
    heavy.gate.set()
    await asyncio.gather(*runs)
    two.close()
    assert heavy.batches == [[0], [1], [3], [2]]  # by turns, and those of "a" have one together


async def test_models_that_pack_mix_lengths(scheduler: Scheduler, model: Counting) -> None:
    model.packs = True
    running = [asyncio.create_task(scheduler.run(model, texts(id, length=id), Form())) for id in (1, 2, 3, 4)]
    await begun(model)
    model.gate.set()
    await asyncio.gather(*running)
    assert model.batches == [[1], [2, 3], [4]]


async def test_a_pair_is_as_long_as_its_ids(scheduler: Scheduler, model: Counting) -> None:
    running = asyncio.create_task(scheduler.run(model, texts(1), Form()))
    await begun(model)
    pairs = [Pair([id] * 8, [0] * 8) for id in (2, 3)]
    ranking = asyncio.create_task(scheduler.run(model, pairs, Form()))
    await asyncio.sleep(0)
    model.gate.set()
    await asyncio.gather(running, ranking)
    assert model.batches == [[1], [2], [3]]  # 16 tokens would be over the budget of 8


async def test_a_few_texts_are_shared_out_among_idle_threads(model: Counting) -> None:
    wide = Scheduler(threads=2, budget=100)
    running = asyncio.create_task(wide.run(model, texts(1, 2, 3, 4), Form()))
    await begun(model)
    await begun(model)
    model.gate.set()
    await running
    wide.close()
    assert sorted(model.batches) == [[1, 2], [3, 4]]


async def test_a_bulk_call_does_not_hold_up_a_single_text(scheduler: Scheduler, model: Counting) -> None:
    bulk = asyncio.create_task(scheduler.run(model, texts(*range(100), length=8), Form()))
    await begun(model)
    single = asyncio.create_task(scheduler.run(model, texts(777), Form()))
    await asyncio.sleep(0)
    model.gate.set()
    await asyncio.gather(bulk, single)
    assert model.batches.index([777]) <= 2
