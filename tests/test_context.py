"""What belongs to the request that is being answered right now."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any

import pytest

from runtime.context import Call, current, wait_until

pytestmark = pytest.mark.anyio


async def work() -> str:
    return "done"


async def test_work_is_kept_by_the_worker_of_the_request() -> None:
    kept: list[Awaitable[Any]] = []

    def keep(awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
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
        current.set(Call(number, "hello", 0.0, lambda awaitable: asyncio.ensure_future(awaitable)))
        await asyncio.sleep(0)
        call = current.get()
        assert call is not None
        seen.append(call.id)

    await asyncio.gather(serve("1"), serve("2"))
    assert seen == ["1", "2"]
    assert current.get() is None
