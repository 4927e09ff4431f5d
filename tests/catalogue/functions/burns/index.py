"""Spends more processor time on a body than it has."""

from __future__ import annotations

import hashlib
import time

from runtime import Request

SECONDS = 0.4


async def handler(request: Request) -> int:
    size, begun = 0, time.thread_time()
    async for piece in request.stream():
        size += len(piece)
        if time.thread_time() - begun < SECONDS:
            hashlib.sha512(piece * 4)
    while time.thread_time() - begun < SECONDS:
        pass
    return size
