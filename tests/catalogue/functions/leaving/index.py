"""Says why it has to leave, and finishes what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

from runtime import Request, wait_until

MB = 1 << 20
SECONDS = 0.5
NEVER_S = 30
kept: list[bytearray] = []
tasks: list[asyncio.Task[None]] = []


async def before_unload(reason: str) -> None:
    print(f"leaving: {reason}")


async def finish() -> None:
    await asyncio.sleep(0.3)
    print("the marked task is done")


async def never() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        print("the unmarked task was cancelled")


async def resist(step_s: float) -> None:
    """Go on, whoever cancels it, and use so much of the processor between one pause and the next."""
    end = time.monotonic() + NEVER_S
    while time.monotonic() < end:
        used = time.thread_time() + step_s
        while time.thread_time() < used:
            pass
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.005)


async def grow() -> None:
    """To a multiple of what it may take, slowly."""
    for _ in range(24):
        kept.append(bytearray(b"x") * (8 * MB))
        await asyncio.sleep(0.3)


async def use() -> None:
    """Half a second, of the clock and of the processor."""
    end = time.process_time() + SECONDS
    await asyncio.sleep(SECONDS)
    while time.process_time() < end:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def handler(request: Request) -> Any:
    match request.url.path.rpartition("/")[2]:
        case "cpu":
            await resist(0.005)
        case "wall_clock":
            await resist(0)
        case "memory":
            await grow()
        case "half":
            kept.append(bytearray(b"x") * (48 * MB))
        case "yields":
            await use()
        case "pid":
            return str(os.getpid())
        case "marked":
            wait_until(finish())
        case "unmarked":
            tasks.append(asyncio.create_task(never()))
    return "answered"
