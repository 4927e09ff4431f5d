"""From what `index.py` exports to one ASGI application."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from runtime.errors import BadRequest
from runtime.worker import threads
from runtime.worker.exports import is_async
from runtime.worker.request import Request
from runtime.worker.response import JSONResponse, as_response

Handler = Callable[[Request], Any]
SocketHandler = Callable[[WebSocket], Awaitable[None]]

_WITHOUT_BODY = (204, 304)


def from_handler(handler: Handler, websocket: SocketHandler | None, most: int) -> ASGIApp:
    """An application around `handler(request)`, and `websocket(ws)` if there is one.

    Args:
        most: how many calls of a plain `def` handler may run at once, each on its thread.
    """
    call = handler if is_async(handler) else _threaded(handler, most)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if websocket is None:
                raise BadRequest("This function takes no WebSocket connections")
            await websocket(WebSocket(scope, receive, send))
            return
        request = Request(scope, receive)
        try:
            await (await _answer(call, request))(scope, receive, send)
        finally:
            if request._form is not None:
                await request.close()  # the files in it

    return application


async def _answer(call: Handler, request: Request) -> Response:
    try:
        value = call(request)
        if inspect.isawaitable(value):
            value = await value
        return as_response(value)
    except HTTPException as error:
        return _raised(error)


def _raised(error: HTTPException) -> Response:
    if error.status_code in _WITHOUT_BODY:
        return Response(status_code=error.status_code, headers=error.headers)
    return JSONResponse({"message": error.detail}, error.status_code, error.headers)


def _threaded(handler: Handler, most: int) -> Handler:
    slots, limiter = asyncio.Semaphore(most), anyio.CapacityLimiter(most)

    async def call(request: Request) -> Any:
        await slots.acquire()
        # A thread cannot be cancelled: when the client leaves, its slot is free only at its end.
        running = threads.begin(handler, request, limiter=limiter)
        running.add_done_callback(lambda _: slots.release())
        value = await threads.result(running)
        return await value if inspect.isawaitable(value) else value

    return call


def from_app(app: ASGIApp, name: str, state: dict[str, Any]) -> ASGIApp:
    """Mount an exported application: its own routes start at `/`, under the public prefix.

    The scope's `path` becomes the full public path and `root_path` ends with the function's
    name, so that the URLs it builds lead back to it. The bare name is presented with a slash.

    Args:
        state: what its lifespan made; each request gets a copy.
    """

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        prefix: str = scope["root_path"]
        path: str = scope["path"]
        slash = "/" if path == f"/{name}" else ""
        mounted = {**scope, "path": prefix + path + slash, "root_path": f"{prefix}/{name}"}
        mounted["state"] = state.copy()
        mounted["raw_path"] = prefix.encode() + scope["raw_path"] + slash.encode()
        await app(mounted, receive, send)

    return application
