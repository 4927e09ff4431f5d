"""Calling a function's hooks."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from runtime.worker import hooks

pytestmark = pytest.mark.anyio


async def test_an_async_hook_runs_on_the_event_loop_and_a_plain_one_on_a_thread() -> None:
    told: list[Any] = []

    async def asynchronous(reason: str) -> None:
        told.append((reason, threading.current_thread() is threading.main_thread()))

    def plain(reason: str) -> None:
        told.append((reason, threading.current_thread() is threading.main_thread()))

    await hooks.run(asynchronous, "a")
    await hooks.run(plain, "b")
    await hooks.run(lambda reason: asynchronous(reason), "c")
    assert told == [("a", True), ("b", False), ("c", True)]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
async def test_what_a_hook_raises_is_raised(kind: type[BaseException]) -> None:
    def plain() -> None:
        raise kind("no")

    async def asynchronous() -> None:
        raise kind("no")

    for hook in (plain, asynchronous):
        with pytest.raises(kind, match="no"):
            await hooks.run(hook)


async def test_a_generator_is_no_hook() -> None:
    """Nobody would run its code."""

    def plain() -> Iterator[None]:
        yield

    async def asynchronous() -> AsyncIterator[None]:
        yield

    for hook in (plain, asynchronous):
        with pytest.raises(TypeError, match="must not `yield`"):
            await hooks.run(hook)
