"""Work that goes on although its request is over."""

from __future__ import annotations

import asyncio
import time
from copy import copy

import pytest

from runtime.context import Call
from runtime.worker import lingering
from runtime.worker.lingering import Lingering
from tests.gateway.house import turns, until

pytestmark = pytest.mark.anyio


class Told:
    """What a gateway would hear."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.reasons: list[str] = []
        self.lingering = Lingering(self.counts.append, self.reasons.append)


def call(id: str = "request-1", *, seconds: float = 0.0) -> Call:
    deadline = time.monotonic() + seconds if seconds else 0.0
    return Call(id, "hello", deadline, lambda call, work: asyncio.ensure_future(work))


def working(until: asyncio.Event) -> asyncio.Task[bool]:
    return asyncio.get_running_loop().create_task(until.wait())


async def test_each_request_counts_once_until_all_of_its_work_has_ended() -> None:
    told, first, second = Told(), asyncio.Event(), asyncio.Event()
    one, other = call(), call("request-2")
    told.lingering.add(one, working(first))
    told.lingering.add(one, working(second))
    told.lingering.add(other, working(first))
    await until(lambda: told.counts == [2])
    first.set()
    await until(lambda: told.counts == [2, 1])
    second.set()
    await until(lambda: told.counts == [2, 1, 0])


async def test_much_work_of_one_request_takes_one_place_and_is_told_once() -> None:
    told, over = Told(), asyncio.Event()
    one = call(seconds=60)
    for _ in range(20):
        told.lingering.add(copy(one), working(over))  # as work given to wait_until has it
    await until(lambda: told.counts == [1])
    over.set()
    await until(lambda: told.counts == [1, 0])
    assert told.lingering._timers == {}


async def test_what_has_ended_before_it_could_be_told_is_not_told() -> None:
    told, over = Told(), asyncio.Event()
    task = working(over)
    await turns(1)
    over.set()
    await turns(1)  # the task is about to end
    told.lingering.add(call(), task)
    await turns()
    assert told.counts == []


async def test_work_that_has_ended_does_not_count() -> None:
    told, over = Told(), asyncio.Event()
    over.set()
    task = working(over)
    await task
    told.lingering.add(call(), task)
    await turns()
    assert told.counts == []


async def test_work_that_is_told_of_twice_counts_once() -> None:
    told, over = Told(), asyncio.Event()
    one, task = call(), working(over)
    told.lingering.add(one, task)
    told.lingering.add(one, task)
    over.set()
    await until(lambda: told.counts == [1, 0])


async def test_what_goes_on_for_too_long_after_its_time_spoils_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "GRACE_S", 0.02)
    told, over = Told(), asyncio.Event()
    began = time.monotonic()
    told.lingering.add(call("slow", seconds=0.02), working(over))
    await until(lambda: told.reasons)
    assert time.monotonic() - began >= 0.039
    assert "request slow goes on" in told.reasons[0]
    over.set()
    await turns()


async def test_what_ends_within_the_grace_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "GRACE_S", 0.02)
    told, over = Told(), asyncio.Event()
    told.lingering.add(call(seconds=0.01), working(over))
    over.set()
    await until(lambda: told.counts == [1, 0])
    await asyncio.sleep(0.06)
    assert told.reasons == []


async def test_without_a_limit_work_may_go_on() -> None:
    told, over = Told(), asyncio.Event()
    told.lingering.add(call(), working(over))
    assert told.lingering._timers == {}
    over.set()
    await turns()
