"""The calls of one connection, with an embedder that never answers until it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from runtime.channel import Stream, open_stream
from runtime.door import socket_pair
from runtime.engine.calls import Calls, CallStream
from runtime.frames import Cancel, EngineAnswer, Warm

pytestmark = pytest.mark.anyio

_ANSWERS = msgspec.msgpack.Decoder(EngineAnswer)


class Slow:
    """An embedder whose models are loaded when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = self.most = self.now = 0

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[Any]:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        yield SimpleNamespace(dimensions=3)


async def until_quiet(slow: Slow) -> None:
    """Let the loop turn until nothing more is asked."""
    before = -1
    while before != slow.asked or not slow.asked:
        before = slow.asked
        for _ in range(50):
            await asyncio.sleep(0)


async def opened(slow: Slow) -> tuple[asyncio.Task[None], Stream[Any]]:
    ours, theirs = socket_pair()
    stream = await open_stream(ours, CallStream)
    client: Stream[Any] = await open_stream(theirs, lambda: Stream(_ANSWERS))
    return asyncio.create_task(Calls(stream, cast(Any, slow)).serve()), client


async def test_calls_beyond_a_number_wait_in_the_socket() -> None:
    slow = Slow()
    serving, client = await opened(slow)
    client.send(*(Warm(id, f"model-{id}") for id in range(500)))
    await until_quiet(slow)
    assert slow.asked == 64
    slow.go.set()
    answered = {(await client.receive()).id for _ in range(500)}
    assert answered == set(range(500))
    assert slow.most == 64
    client.close()
    await serving


async def test_the_end_of_a_full_connection_cancels_its_calls() -> None:
    slow = Slow()
    serving, client = await opened(slow)
    client.send(*(Warm(id, f"model-{id}") for id in range(500)))
    await until_quiet(slow)
    client.abort()
    async with asyncio.timeout(10):
        await serving
    assert slow.now == 0
    assert slow.asked == 64


async def test_calls_are_cancelled_also_while_no_more_are_taken() -> None:
    slow = Slow()
    serving, client = await opened(slow)
    client.send(*(Warm(id, f"model-{id}") for id in range(70)))
    await until_quiet(slow)
    client.send(*(Cancel(id) for id in range(69)))
    async with asyncio.timeout(10):
        while slow.now != 1:  # noqa: ASYNC110 - the one that is left
            await asyncio.sleep(0.001)
    assert slow.asked == 65  # those that waited in line were never begun
    slow.go.set()
    assert (await client.receive()).id == 69
    client.close()
    await serving


async def test_a_call_that_is_cancelled_as_soon_as_it_is_sent_is_not_begun() -> None:
    slow = Slow()
    serving, client = await opened(slow)
    client.send(Warm(1, "model"), Cancel(1), Warm(1, "model"))  # an id may be used again
    slow.go.set()
    assert (await client.receive()).id == 1
    assert slow.asked == 1
    client.close()
    await serving
