"""A WebSocket that says something first, then repeats what it hears."""

from __future__ import annotations

from runtime import Request, WebSocket


async def handler(_: Request) -> str:
    return "open a WebSocket here"


async def websocket(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send_text("meow")
    async for text in ws.iter_text():
        await ws.send_text(text)
