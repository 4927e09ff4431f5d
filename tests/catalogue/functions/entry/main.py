"""An entry file with a name of its own."""

from __future__ import annotations

from runtime import Request


async def handler(_: Request) -> dict[str, str]:
    return {"entrypoint": "main.py"}
