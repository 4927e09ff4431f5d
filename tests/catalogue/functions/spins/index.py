"""Needs more processor time than it may have; it does end by itself, for servers without the limit."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from runtime import Request, wait_until

SECONDS = 0.4


def spin() -> None:
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        pass


async def spin_in_steps() -> None:
    end = time.process_time() + SECONDS
    while time.process_time() < end:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def spin_in_callback() -> None:
    done = asyncio.Event()

    def callback() -> None:
        spin()
        done.set()

    asyncio.get_running_loop().call_soon(callback)
    await done.wait()


async def spin_later() -> None:
    await asyncio.sleep(0.05)
    spin()


async def told() -> AsyncIterator[str]:
    yield "spinning"
    await asyncio.sleep(0.01)
    spin()


async def handler(request: Request) -> Any:
    match request.url.path.rpartition("/")[2]:
        case "told":
            return told()
        case "sync":
            spin()
        case "async":
            await spin_in_steps()
        case "thread":
            await asyncio.to_thread(spin)
        case "callback":
            await spin_in_callback()
        case "background":
            wait_until(spin_later())
    return {"pid": os.getpid()}
