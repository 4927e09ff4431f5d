"""A `def`, which runs on a thread."""

from __future__ import annotations

from runtime import Request


def handler(request: Request) -> dict[str, str]:
    return {"exported": "def", "path": request.url.path}
