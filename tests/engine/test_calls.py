"""The calls of one connection, with an embedder that never answers until it is told to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from runtime.channel import Stream, open_stream
from runtime.door import socket_pair
from runtime.engine.calls import Calls
from runtime.frames import EngineAnswer, EngineCall, Warm

pytestmark = pytest.mark.anyio

_CALLS = msgspec.msgpack.Decoder(EngineCall)
_ANSWERS = msgspec.msgpack.Decoder(EngineAnswer)


class Slow:
    """An embedder whose models are loaded when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = self.most = self.now = 0

    async def model(self, name: str) -> Any:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        return SimpleNamespace(dimensions=3)


async def until_quiet(slow: Slow) -> None:
    """Let the loop turn until nothing more is asked."""
    before = -1
    while before != slow.asked or not slow.asked:
        before = slow.asked
        for _ in range(50):
            await asyncio.sleep(0)


async def opened(slow: Slow) -> tuple[asyncio.Task[None], Stream[Any]]:
    ours, theirs = socket_pair()
    stream = await open_stream(ours, lambda: Stream(_CALLS))
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
