"""Hello and an echo as a Starlette application straight in uvicorn: what dispatch and websockets are
compared with.

The harder baseline: httptools, uvloop, no access log, no check of keys, one process.
"""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

PATH = "/functions/v1/hello"


async def hello(request: Request) -> JSONResponse:
    data = await request.json() if await request.body() else {}
    return JSONResponse({"message": f"Hello {data.get('name', 'World')}!"})


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


app = Starlette(routes=[Route(PATH, hello, methods=["POST"]), WebSocketRoute("/functions/v1/echo", echo)])


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        app, http="httptools", ws="websockets-sansio", loop="uvloop", access_log=False, log_level="critical"
    )
    print(f"Serving functions on http://127.0.0.1:{listener.getsockname()[1]}{PATH}", flush=True)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
