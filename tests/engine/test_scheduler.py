"""Texts, threads and results, with a model that only counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engine.scheduler import Form, Scheduler

pytestmark = pytest.mark.anyio


class Counting:
    """Gives each text's first id back; runs only while `gate` is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()
        self.broken: set[int] = set()

    def infer(self, batch: Sequence[Sequence[int]], forms: Sequence[Form]) -> list[NDArray[np.float32]]:
        ids = [text[0] for text in batch]
        self.batches.append(ids)
        self.started.release()
        assert self.gate.wait(10)
        if self.broken & set(ids):
            raise RuntimeError("broken")
        return [np.full((1, 1), id, dtype=np.float32) for id in ids]


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


async def test_a_failed_batch_fails_its_calls_and_no_other(scheduler: Scheduler, model: Counting) -> None:
    model.gate.set()
    model.broken = {1}
    with pytest.raises(RuntimeError, match="broken"):
        await scheduler.run(model, texts(1), Form())
    assert len(await scheduler.run(model, texts(2), Form())) == 1


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
