"""What belongs to the request that is being answered right now."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from runtime.context import Call, current, is_cancelled, time_left, wait_until

pytestmark = pytest.mark.anyio


async def work() -> str:
    return "done"


async def test_work_is_kept_by_the_worker_of_the_request() -> None:
    kept: list[Awaitable[Any]] = []

    def keep(call: Call, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        kept.append(awaitable)
        return asyncio.ensure_future(awaitable)

    token = current.set(Call("request-1", "hello", 0.0, keep))
    task = wait_until(work())
    current.reset(token)
    assert await task == "done"
    assert len(kept) == 1


async def test_outside_a_request_there_is_nobody_to_keep_it() -> None:
    awaitable = work()
    with pytest.raises(RuntimeError, match=r"from your handler; in startup use asyncio\.create_task"):
        wait_until(awaitable)
    assert inspect.getcoroutinestate(awaitable) == inspect.CORO_CLOSED


async def test_each_task_has_its_own_request() -> None:
    seen: list[str] = []

    async def serve(number: str) -> None:
        current.set(Call(number, "hello", 0.0, lambda call, awaitable: asyncio.ensure_future(awaitable)))
        await asyncio.sleep(0)
        call = current.get()
        assert call is not None
        seen.append(call.id)

    await asyncio.gather(serve("1"), serve("2"))
    assert seen == ["1", "2"]
    assert current.get() is None


def call(deadline: float = 0.0) -> Call:
    return Call("request-1", "hello", deadline, lambda call, awaitable: asyncio.ensure_future(awaitable))


async def test_a_thread_is_told_that_its_request_was_cancelled() -> None:
    mine = call()
    token = current.set(mine)
    assert await asyncio.to_thread(is_cancelled) is False
    mine.cancelled = True
    assert await asyncio.to_thread(is_cancelled) is True
    current.reset(token)


async def test_a_request_whose_time_is_up_is_cancelled() -> None:
    token = current.set(call(time.monotonic() - 1))
    assert is_cancelled()
    assert time_left() == 0
    current.reset(token)


async def test_a_request_knows_how_much_time_it_has() -> None:
    token = current.set(call(time.monotonic() + 10))
    assert 9 < time_left() <= 10
    assert not is_cancelled()
    current.set(call())
    assert time_left() == math.inf
    assert not is_cancelled()
    current.reset(token)


async def test_outside_a_request_nothing_is_cancelled_and_time_is_endless() -> None:
    assert not is_cancelled()
    assert time_left() == math.inf


async def test_work_that_outlives_a_request_has_the_rest_of_its_time() -> None:
    assert call().patience() == math.inf
    assert 9 < call(time.monotonic() + 10).patience() <= 10
    assert call(time.monotonic() - 10).patience() == 0
    socket = call()
    socket.limit_s = 5.0
    assert socket.patience() == 5
