"""An application of FastAPI."""

from __future__ import annotations

from fastapi import FastAPI, Response, WebSocket

app = FastAPI()


@app.get("/items/{name}")
async def item(name: str) -> Response:
    return Response(name, headers={"x-framework": "fastapi"})


@app.websocket("/socket")
async def socket(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send_text("meow")
    async for text in ws.iter_text():
        await ws.send_text(text)
