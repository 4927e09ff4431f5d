"""The engine is killed in the middle of its work, again and again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from runtime.ai.engine import EngineClient
from runtime.door import socket_pair
from runtime.engine.models.catalogue import EMBEDDED
from runtime.errors import EngineUnavailable
from runtime.frames import Connect

from .process import Engine, running_engine

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

CALLERS = 8
LONG = "The quick brown fox jumps over the lazy dog. " * 25
"""As long as a run that is hard to miss with a kill."""


class Callers:
    """Who ask again and again, and count what came of it."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._answer = asyncio.Event()
        self.begun = self.answered = self.refused = 0
        self.vectors: list[bytes] = []
        self.over = False

    async def call(self) -> None:
        while not self.over:
            self.begun += 1
            try:
                result = await self._client.embed(EMBEDDED, [LONG])
            except EngineUnavailable:
                self.refused += 1
            else:
                self.answered += 1
                self.vectors.append(bytes(result.data))
                self._answer.set()

    async def another_answer(self) -> None:
        self._answer.clear()
        await self._answer.wait()


async def introduce(client: EngineClient, engine: Engine) -> None:
    ours, theirs = socket_pair()
    engine.door.send(Connect("worker"), [theirs.detach()])
    await client.attach(ours)


async def test_no_call_is_lost_and_none_hangs(real_models_dir: Path, kills: int) -> None:
    client = EngineClient(patience=30)
    callers = Callers(client)
    calls = asyncio.gather(*(callers.call() for _ in range(CALLERS)))
    for _ in range(kills):
        with running_engine(real_models_dir) as engine:
            await introduce(client, engine)
            await callers.another_answer()  # so the others are in the middle of theirs
            engine.process.kill()
    with running_engine(real_models_dir) as engine:
        await introduce(client, engine)
        callers.over = True
        await calls
    assert callers.begun == callers.answered + callers.refused
    assert callers.answered > kills
    vectors = np.array([np.frombuffer(vector, "<f4") for vector in callers.vectors])
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), atol=1e-5)
