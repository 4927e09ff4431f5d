"""CORS: preflights answered by the host, and its headers on every response to a browser.

Follows the CORS protocol of the Fetch standard. A header that a function sets itself wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.gateway import requestid
from runtime.project.settings import Cors

Header = tuple[bytes, bytes]

PREFLIGHT = "runtime.preflight"
"""Key of the scope, true: a preflight on its way to the function, to be let in without a token."""

PERMISSION = "runtime.permission"
"""Key of the scope: the headers with which a preflight is to be answered, if its host is served at all."""

EXPOSED = (b"sb-error-code", requestid.HEADER, b"x-relay-error")
"""Response headers of ours that a browser's script may read."""

_ALLOW_ORIGIN = b"access-control-allow-origin"
_EXPOSE = b"access-control-expose-headers"
_OF_A_BODY = frozenset({b"content-length", b"content-type", b"transfer-encoding", b"expect"})


def grant(allowed: Sequence[str], origin: bytes | None) -> list[Header]:
    """The headers that let (or do not let) a page of this origin read a response."""
    if "*" in allowed:
        return [(_ALLOW_ORIGIN, b"*")]
    if origin is not None and origin.decode("latin-1") in allowed:
        return [(_ALLOW_ORIGIN, origin), (b"vary", b"Origin")]
    return [(b"vary", b"Origin")]


def header(headers: Sequence[Header], name: bytes) -> bytes | None:
    """The first value of this (lower-case) name; None: there is none."""
    for key, value in headers:
        if key == name:
            return value
    return None


class CorsMiddleware:
    """The outermost application of the gateway.

    Args:
        app: everything else.
        settings: what preflights are answered with.
        forwards_preflight: whether the function behind this path answers CORS itself.
    """

    def __init__(self, app: ASGIApp, settings: Cors, forwards_preflight: Callable[[str], bool]) -> None:
        self.app, self.forwards_preflight = app, forwards_preflight
        self.origins = settings.allow_origins
        self.varies = "*" not in self.origins
        self.preflight: list[Header] = [
            (b"access-control-allow-methods", ", ".join(settings.allow_methods).encode()),
            (b"access-control-allow-headers", ", ".join(settings.allow_headers).encode()),
            (b"access-control-max-age", str(settings.max_age_s).encode()),
            (_EXPOSE, b", ".join(EXPOSED)),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers: list[Header] = scope["headers"]
        origin = header(headers, b"origin")
        if origin is None and not self.varies:
            return await self.app(scope, receive, send)
        if origin is None or not _is_preflight(scope):
            return await self.app(scope, receive, self._sender(scope, send, origin))
        if self.forwards_preflight(scope["path"]):
            return await self._forward(scope, receive, self._sender(scope, send, origin))
        permission = [*grant(self.origins, origin), *self.preflight]
        return await self.app({**scope, PERMISSION: permission}, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in _OF_A_BODY]
        await self.app({**scope, "headers": headers, PREFLIGHT: True}, _without_body(receive), send)

    def _sender(self, scope: Scope, send: Send, origin: bytes | None) -> Send:
        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[Header] = list(message.get("headers", ()))
                message = {**message, "headers": [*headers, *self._additions(scope, headers, origin)]}
            await send(message)

        return send_with_cors

    def _additions(self, scope: Scope, headers: list[Header], origin: bytes | None) -> list[Header]:
        additions = [] if origin is None else _missing_exposure(headers)
        if header(headers, _ALLOW_ORIGIN) is not None:
            return additions
        # A function that answers CORS itself refuses an origin by silence: ours must not undo that.
        if header(headers, b"sb-error-code") is None and self.forwards_preflight(scope["path"]):
            return additions
        return [*grant(self.origins, origin), *additions]


def _is_preflight(scope: Scope) -> bool:
    if scope["method"] != "OPTIONS":
        return False
    return header(scope["headers"], b"access-control-request-method") is not None


def _missing_exposure(headers: list[Header]) -> list[Header]:
    """What the response does not expose yet; field lines of one name add up to one list."""
    exposed = b",".join(value for name, value in headers if name == _EXPOSE).lower().split(b",")
    names = {name.strip() for name in exposed}
    missing = [name for name in EXPOSED if name not in names]
    return [(_EXPOSE, b", ".join(missing))] if missing else []


def _without_body(receive: Receive) -> Receive:
    """A `receive` that tells of an empty body, then only of the client's leaving."""
    done = False

    async def receive_nothing() -> Message:
        nonlocal done
        if not done:
            done = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return message

    return receive_nothing
