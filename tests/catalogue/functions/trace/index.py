"""Answers with what it remembers of the request after a while."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from runtime import Request

own: ContextVar[str] = ContextVar("own")


async def handler(request: Request) -> Any:
    own.set(request.headers["traceparent"])
    for _ in range(5):
        await asyncio.sleep(0.005)
    print(f"answering {own.get()}")
    return {"kept": own.get(), "header": request.headers["traceparent"]}
