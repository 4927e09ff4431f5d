"""Is silent for longer than it may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from runtime import Request, StreamingResponse

SILENCE_S = 0.6


async def pieces() -> AsyncIterator[str]:
    for piece in "meo":
        yield piece
        await asyncio.sleep(0.05)
    await asyncio.sleep(SILENCE_S)
    yield "w"


async def late() -> AsyncIterator[str]:
    await asyncio.sleep(SILENCE_S)
    yield "meow"


async def handler(request: Request) -> StreamingResponse:
    match request.url.path.rpartition("/")[2]:
        case "pieces":
            return StreamingResponse(pieces())
        case "first-piece":
            return StreamingResponse(late())
        case _:
            await asyncio.sleep(SILENCE_S)
            return StreamingResponse(pieces())
