"""Ends its process when asked to."""

from __future__ import annotations

import os

from runtime import Request


async def handler(request: Request) -> int:
    if request.url.path.endswith("/now"):
        os._exit(1)
    return os.getpid()
