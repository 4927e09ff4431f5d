"""Takes longer than it may."""

from __future__ import annotations

import asyncio

from runtime import Request


async def handler(_: Request) -> str:
    await asyncio.sleep(0.5)
    return "done at last"
