"""An application of Starlette."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket


async def item(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.path_params["name"], headers={"x-framework": "starlette"})


async def socket(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send_text("meow")
    async for text in ws.iter_text():
        await ws.send_text(text)


app = Starlette(routes=[Route("/items/{name}", item), WebSocketRoute("/socket", socket)])
