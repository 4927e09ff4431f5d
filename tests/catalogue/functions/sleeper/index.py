"""Sleeps, and counts the sleepers that were woken."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime import Request

state = {"asleep": 0, "cancelled": 0, "done": 0}


async def handler(request: Request) -> Any:
    if request.url.path.endswith("/state"):
        return state
    state["asleep"] += 1
    print("asleep")
    try:
        await asyncio.sleep(float(request.query_params["seconds"]))
    except asyncio.CancelledError:
        state["cancelled"] += 1
        raise
    finally:
        state["asleep"] -= 1
    state["done"] += 1
    return "slept"
