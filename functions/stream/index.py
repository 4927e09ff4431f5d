"""Send server-sent events."""

# Call it, with the keys of `eval "$(functions keys)"`; -N lets curl show each event as it comes:
#   curl -N "http://localhost:54321/functions/v1/stream?n=5&interval=0.5" -H "Authorization: Bearer $ANON_KEY"

import asyncio
from collections.abc import AsyncIterator

from runtime import HTTPException, Request, StreamingResponse


async def handler(request: Request) -> StreamingResponse:
    try:
        count = int(request.query_params.get("n", "10"))
        interval = float(request.query_params.get("interval", "1"))
    except ValueError as error:
        raise HTTPException(400, "n is a whole number of events, interval a number of seconds") from error
    if not (0 <= count <= 1000 and 0 <= interval <= 60):
        raise HTTPException(400, "n goes up to 1000 events, interval up to 60 seconds")
    return StreamingResponse(ticks(count, interval), media_type="text/event-stream")


async def ticks(count: int, interval: float) -> AsyncIterator[str]:
    for number in range(1, count + 1):
        if number > 1:
            await asyncio.sleep(interval)
        yield f"id: {number}\nevent: tick\ndata: {number} of {count}\n\n"
