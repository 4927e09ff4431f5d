"""Answers that the host gives instead of a function: one body, one set of headers."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from starlette.types import Scope, Send

from runtime.errors import (
    AIError,
    BodyTimeout,
    FunctionsError,
    HostError,
    Overloaded,
    ShuttingDown,
    rule_of,
)
from runtime.gateway import requestid
from runtime.gateway.cors import EXPOSED

Header = tuple[bytes, bytes]

_RETRY_SOON = (Overloaded, ShuttingDown)


class _Body(msgspec.Struct):
    code: str
    message: str
    msg: str  # older clients read this one
    request_id: str


def body(error: FunctionsError, request_id: str) -> bytes:
    """The JSON of an error. Only errors made for clients tell what they say."""
    public = isinstance(error, HostError | AIError)
    message = error.message if public else "The server failed (please check the logs)"
    return msgspec.json.encode(_Body(rule_of(error).code, message, message, request_id))


def head(error: FunctionsError, request_id: str, length: int, *, not_run: bool) -> list[Header]:
    """The headers that go with `body`.

    Args:
        not_run: the function was not called; tells supabase-js a relay error from the function's own.
    """
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(length).encode()),
        (b"sb-error-code", rule_of(error).code.encode()),
        (requestid.HEADER, request_id.encode()),
        (b"access-control-expose-headers", b", ".join(EXPOSED)),
    ]
    if not_run:
        headers.append((b"x-relay-error", b"true"))
    if isinstance(error, _RETRY_SOON):
        headers.append((b"retry-after", b"1"))
    if isinstance(error, BodyTimeout):
        headers.append((b"connection", b"close"))  # whatever still comes is for nobody (RFC 9110, 15.5.9)
    return headers


async def refuse(
    send: Send, error: FunctionsError, request_id: str, *, not_run: bool, headers: Sequence[Header] = ()
) -> None:
    """Send a whole response that tells of this error; `headers` are added to its own."""
    await _respond(send, "http.response", error, request_id, not_run=not_run, headers=headers)


async def refuse_socket(
    scope: Scope,
    send: Send,
    error: FunctionsError,
    request_id: str,
    *,
    not_run: bool,
    headers: Sequence[Header] = (),
) -> None:
    """Refuse a WebSocket that is not accepted yet.

    As an HTTP response where the server can do that, else by closing, which says less.
    """
    if "websocket.http.response" in scope.get("extensions", {}):
        kind = "websocket.http.response"
        await _respond(send, kind, error, request_id, not_run=not_run, headers=headers)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": rule_of(error).code})


async def _respond(
    send: Send, kind: str, error: FunctionsError, request_id: str, *, not_run: bool, headers: Sequence[Header]
) -> None:
    content = body(error, request_id)
    own = head(error, request_id, len(content), not_run=not_run)
    await send({"type": f"{kind}.start", "status": rule_of(error).status, "headers": [*own, *headers]})
    await send({"type": f"{kind}.body", "body": content, "more_body": False})


def wire(error: FunctionsError, request_id: str, headers: Sequence[Header] = ()) -> bytes:
    """The same as bytes of HTTP/1.1, for where there is no ASGI yet; the function was not run."""
    content = body(error, request_id)
    status = HTTPStatus(rule_of(error).status)
    own = head(error, request_id, len(content), not_run=True)
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
    lines += [name + b": " + value for name, value in [*own, *headers, (b"connection", b"close")]]
    return b"\r\n".join([*lines, b"", content])
