"""What a function imports.

    from runtime import ai, Request

`ai` is there without the import too, for functions written for Supabase; imported, it has
types, which editors and type checkers know. Names are imported when they are first used:
what a function does not use costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
    from starlette.websockets import WebSocket, WebSocketDisconnect

    from runtime import ai
    from runtime.context import is_cancelled, time_left, wait_until
    from runtime.version import __version__
    from runtime.worker.request import Request
    from runtime.worker.response import JSONResponse

_HOME = {
    "FileResponse": "starlette.responses",
    "HTMLResponse": "starlette.responses",
    "HTTPException": "starlette.exceptions",
    "JSONResponse": "runtime.worker.response",
    "RedirectResponse": "starlette.responses",
    "Request": "runtime.worker.request",
    "Response": "starlette.responses",
    "StreamingResponse": "starlette.responses",
    "UploadFile": "starlette.datastructures",
    "WebSocket": "starlette.websockets",
    "WebSocketDisconnect": "starlette.websockets",
    "__version__": "runtime.version",
    "is_cancelled": "runtime.context",
    "time_left": "runtime.context",
    "wait_until": "runtime.context",
}

__all__ = [
    "FileResponse",
    "HTMLResponse",
    "HTTPException",
    "JSONResponse",
    "RedirectResponse",
    "Request",
    "Response",
    "StreamingResponse",
    "UploadFile",
    "WebSocket",
    "WebSocketDisconnect",
    "__version__",
    "ai",
    "is_cancelled",
    "time_left",
    "wait_until",
]


def __getattr__(name: str) -> Any:
    if name == "ai":
        return importlib.import_module("runtime.ai")
    if name not in _HOME:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
