"""From what `index.py` exports to one ASGI application."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from runtime.errors import BadRequest
from runtime.worker.request import Request
from runtime.worker.response import JSONResponse, as_response

Handler = Callable[[Request], Any]
SocketHandler = Callable[[WebSocket], Awaitable[None]]


def is_async(function: Any) -> bool:
    """`async def` (a generator too), also as a callable object or behind functools.partial."""
    method = getattr(function, "__call__", None)  # noqa: B004 - the method itself is inspected
    return any(
        inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate)
        for candidate in (function, method)
    )


def from_handler(handler: Handler, websocket: SocketHandler | None, threads: int) -> ASGIApp:
    """An application around `handler(request)`, and `websocket(ws)` if there is one.

    Args:
        threads: how many calls of a plain `def` handler may run at once.
    """
    call = handler if is_async(handler) else _threaded(handler, threads)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if websocket is None:
                raise BadRequest("This function takes no WebSocket connections")
            await websocket(WebSocket(scope, receive, send))
            return
        try:
            value = call(Request(scope, receive))
            if inspect.isawaitable(value):
                value = await value
            response = as_response(value)
        except HTTPException as error:
            response = JSONResponse({"message": error.detail}, error.status_code, error.headers)
        await response(scope, receive, send)

    return application


def _threaded(handler: Handler, threads: int) -> Handler:
    slots, limiter = asyncio.Semaphore(threads), anyio.CapacityLimiter(threads)

    async def call(request: Request) -> Any:
        await slots.acquire()
        # A thread cannot be cancelled: when the client leaves, its slot is free only at its end.
        running = asyncio.ensure_future(run_sync(handler, request, limiter=limiter))
        running.add_done_callback(lambda _: slots.release())
        value = await asyncio.shield(running)
        return await value if inspect.isawaitable(value) else value

    return call


def from_app(app: ASGIApp, name: str) -> ASGIApp:
    """Mount an exported application: its own routes start at `/`, under the public prefix.

    The scope's `path` becomes the full public path and `root_path` ends with the function's
    name, so that the URLs it builds lead back to it. The bare name is presented with a slash.
    """

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        prefix: str = scope["root_path"]
        path: str = scope["path"]
        slash = "/" if path == f"/{name}" else ""
        mounted = {**scope, "path": prefix + path + slash, "root_path": f"{prefix}/{name}"}
        mounted["raw_path"] = prefix.encode() + scope["raw_path"] + slash.encode()
        await app(mounted, receive, send)

    return application
