"""Memory of the engine over texts of random lengths, and over loads and unloads."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from statistics import median
from typing import Any

import msgspec

from bench import gte
from bench.closed import resident
from bench.servers import MODEL
from bench.table import Number
from bench.texts import Writer
from bench.traffic import ROOT
from runtime.ai.engine import EngineClient
from runtime.door import Door, socket_pair
from runtime.frames import Connect, EngineBoot

TEXTS, FEW = 100_000, 10_000
SETTLED = 2000
"""Requests after which nothing may grow any more."""

READINGS, _BETWEEN = 11, 100
"""Memory is read so often, each time after so many texts more; the median counts."""

LOADS, SETTLED_LOADS = 50, 5
_CLIENTS = 16
_seeds = itertools.count()
_MOST = 5.0  # per cent
_QUIET_S = 0.5  # until what threads do on the side is done


def measure(quick: bool = False) -> list[Number]:
    """Single texts of 3 to 512 tokens from sixteen clients; then two models in turns.

    Args:
        quick: a tenth of the texts.
    """
    return asyncio.run(_measure(FEW if quick else TEXTS))


async def _measure(count: int) -> list[Number]:
    async with engine() as (client, pid):
        await _texts(client, SETTLED)
        first = await _readings(client, pid)
        await _texts(client, count - SETTLED - 2 * READINGS * _BETWEEN)
        last = await _readings(client, pid)
    async with engine(most=1) as (client, pid):
        begun = await _loads(client, pid, SETTLED_LOADS)
        ended = await _loads(client, pid, LOADS - SETTLED_LOADS)
    return [
        *_compared(f"memory after {count} texts", last, first, f"{SETTLED} texts"),
        *_compared(f"memory after {LOADS} loads", ended, begun, f"{SETTLED_LOADS} loads"),
    ]


def _compared(what: str, now: int, then: int, since: str) -> list[Number]:
    grown = 100 * (now - then) / then
    return [
        Number(what=f"{what}; baseline: after {since}", value=now / 1e6, unit="MB", baseline=then / 1e6),
        Number(what=f"{what}: more than after {since}", value=grown, unit="%", most=_MOST),
    ]


async def _readings(client: EngineClient, pid: int) -> int:
    """Bytes of memory: what the last text left behind differs from one to the next."""
    found = []
    for _ in range(READINGS):
        await _texts(client, _BETWEEN)
        found.append(resident(pid))
    return round(median(found))


async def _texts(client: EngineClient, count: int) -> None:
    """So many texts of the thin shape, each in a call of its own."""
    texts, numbers = Writer(gte.tokenizer()).any(seed=next(_seeds)), iter(range(count))

    async def ask() -> None:
        for _ in numbers:
            await client.embed(gte.THIN, [next(texts)])

    await asyncio.gather(*(ask() for _ in range(_CLIENTS)))


async def _loads(client: EngineClient, pid: int, count: int) -> int:
    """Bytes of memory after one model took the place of the other so many times."""
    for _ in range(count):
        for model in (MODEL, gte.GTE):
            await client.embed(model, ["A text of a few words"])
    await asyncio.sleep(_QUIET_S)
    return resident(pid)


@contextlib.asynccontextmanager
async def engine(most: int = 0) -> AsyncIterator[tuple[EngineClient, int]]:
    """An engine's process, as the supervisor starts one, and a way to it.

    Args:
        most: bytes that models may take.
    """
    with _process(EngineBoot(models_dir=str(gte.models_dir()), models_bytes=most)) as (door, pid):
        here, there = socket_pair()
        door.send(Connect("worker"), [there.detach()])
        client = EngineClient(patience=30.0)
        await client.attach(here)
        yield client, pid


@contextlib.contextmanager
def _process(boot: EngineBoot) -> Iterator[tuple[Door[Any], int]]:
    here, there = socket_pair()
    command = [sys.executable, "-m", "runtime.engine", "--fd", str(there.fileno())]
    environ = {"PATH": os.environ["PATH"]}
    with subprocess.Popen(command, pass_fds=[there.fileno()], cwd=ROOT, env=environ) as process:
        there.close()
        door: Door[Any] = Door(here, msgspec.msgpack.Decoder(Any))
        door.send(boot)
        try:
            yield door, process.pid
        finally:
            door.close()
            process.terminate()
