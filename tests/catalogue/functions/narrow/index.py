"""Has room for one request."""

from __future__ import annotations

import asyncio

from runtime import Request


async def handler(_: Request) -> str:
    await asyncio.sleep(0.3)
    return "served"
