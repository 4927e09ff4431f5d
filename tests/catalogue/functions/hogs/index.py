"""Needs more memory than it may have; it gives it back after a while, for servers without the limit."""

from __future__ import annotations

import asyncio
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from runtime import Request, wait_until

MB = 1 << 20
STEP, STEPS = 8 * MB, 24
HELD_S = 0.3
CHILD = f"import time; data = bytearray(b'x') * {STEP * STEPS}; time.sleep({HELD_S})"


def hold() -> None:
    data = [bytearray(b"x") * STEP for _ in range(STEPS)]
    time.sleep(HELD_S)
    data.clear()


async def hold_in_steps() -> None:
    data = []
    for _ in range(STEPS):
        data.append(bytearray(b"x") * STEP)
        await asyncio.sleep(0)
    await asyncio.sleep(HELD_S)


async def map_memory() -> None:
    with mmap.mmap(-1, STEP * STEPS) as area:
        for at in range(0, len(area), mmap.PAGESIZE):
            area[at] = 1
        await asyncio.sleep(HELD_S)


def read_files() -> None:
    path = Path("large")
    path.write_bytes(bytes(STEP))
    data = [path.read_bytes() for _ in range(STEPS)]
    time.sleep(HELD_S)
    data.clear()


async def have_a_child() -> None:
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", CHILD], check=True)


async def hold_later() -> None:
    await asyncio.sleep(0.05)
    await hold_in_steps()


async def handler(request: Request) -> Any:
    match request.url.path.rpartition("/")[2]:
        case "sync":
            hold()
        case "async":
            await hold_in_steps()
        case "map":
            await map_memory()
        case "files":
            read_files()
        case "child":
            await have_a_child()
        case "background":
            wait_until(hold_later())
        case "array":
            return len(bytearray(b"x") * (int(request.query_params["mb"]) * MB))
    return {"pid": os.getpid()}
