"""One request (or WebSocket) on a connection: frames on one side, ASGI events on the other."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.types import Message, Scope

from runtime import frames
from runtime.channel import CHUNK, Stream
from runtime.errors import ChannelClosed, FrameError, InvalidResponse

RequestStream = Stream[frames.RequestFrame]

_ASGI = {"version": "3.0", "spec_version": "2.4"}
_LONGEST_REASON = 123
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TOO_LONG = "the function's response has a body longer than its content-length"
_RESPONSE_EXTENSION: dict[str, dict[str, Any]] = {"websocket.http.response": {}}


def scope_of(head: frames.Head) -> Scope:
    """The ASGI scope of a head frame. `auth` holds the verified claims."""
    scope: Scope = {
        "type": head.kind,
        "asgi": _ASGI,
        "http_version": head.http_version,
        "method": head.method,
        "scheme": head.scheme,
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": head.root_path,
        "headers": head.headers,
        "client": head.client,
        "server": head.server,
        "auth": head.claims,
        "state": {},
    }
    if head.kind == "websocket":
        del scope["method"]
        scope["subprotocols"] = head.subprotocols
        scope["extensions"] = _RESPONSE_EXTENSION
    return scope


def _headers(message: Message) -> frames.Headers:
    """Header names in lower case, as ASGI demands and not every application heeds.

    Raises:
        InvalidResponse: one cannot stand in an HTTP message (RFC 9110, section 5).
    """
    headers = [(name.lower(), value) for name, value in message.get("headers", ())]
    for name, value in headers:
        if _NAME.fullmatch(name) is None or _CONTROL.search(value) is not None:
            raise InvalidResponse(f"the function's response has a header that cannot be sent: {name!r}")
    return headers


def _start(message: Message) -> frames.Start:
    status: int = message["status"]
    if not 200 <= status <= 599:
        raise InvalidResponse(f"the function's response has status {status}: use one from 200 to 599")
    return frames.Start(status, _headers(message))


def _length(headers: frames.Headers) -> int | None:
    told = next((value for name, value in headers if name == b"content-length"), b"")
    return int(told) if told.isdigit() else None


class HttpExchange:
    """The `receive` and `send` of one request.

    The start of the response waits for its first piece of body, so that a plain response
    is one write. With it the response to a HEAD is complete.

    Attributes:
        cut: the application was told, by an OSError, that nobody wants the rest of a body.
    """

    def __init__(self, stream: RequestStream, head: frames.Head) -> None:
        self._stream = stream
        self._more_to_read = head.more
        self._is_head = head.method == "HEAD"
        self._told_empty = False
        self._start: frames.Start | None = None
        self._left: int | None = None  # bytes of a body whose length was told
        self.started = False
        self.finished = False
        self.cut = False

    async def receive(self) -> Message:
        if self.finished:
            return {"type": "http.disconnect"}
        if not self._more_to_read:
            if not self._told_empty:
                self._told_empty = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return await self._disconnect()
        try:
            frame = await self._stream.receive()
        except ChannelClosed:
            return {"type": "http.disconnect"}
        assert isinstance(frame, frames.Body)
        self._more_to_read = frame.more
        self._told_empty = not frame.more
        return {"type": "http.request", "body": frame.data, "more_body": frame.more}

    async def _disconnect(self) -> Message:
        """Everything was read: what can still come is the connection's end."""
        try:
            while True:
                await self._stream.receive()
        except ChannelClosed:
            return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.finished:
            self._after_the_end(message.get("body", b""), message.get("more_body", False))
            return
        if self._stream.closed:
            raise OSError("the client is gone")
        if message["type"] == "http.response.start":
            self._start = _start(message)
        elif message["type"] == "http.response.body":
            body, more = message.get("body", b""), message.get("more_body", False)
            await (self._send_head(len(body), more) if self._is_head else self._send_body(body, more))

    def fail(self, failure: frames.Failure) -> None:
        """End with a failure: whatever the application goes on to send is for nobody."""
        self._left, self._is_head, self.finished = None, False, True
        self._stream.send(failure)

    def _after_the_end(self, body: bytes, more: bool) -> None:
        if self._left == 0 and body:
            raise InvalidResponse(_TOO_LONG)
        if self._is_head and more and self._left != 0:
            self._cut()

    def _cut(self) -> None:
        self.cut = True
        raise OSError("nobody wants the body of the response to a HEAD")

    async def _send_head(self, size: int, more: bool) -> None:
        """Send the head alone. A body that would go on ends here; a whole one cost nothing."""
        assert self._start is not None, "the application sent a body before its status"
        length = _length(self._start.headers)
        self._put(b"", False)
        await self._drain()
        self._left = None if length is None else length - size
        if more and size and self._left != 0:
            self._cut()

    async def _send_body(self, body: bytes, more: bool) -> None:
        if len(body) <= CHUNK:
            self._put(bytes(body), more)
            await self._drain()
            if more:
                await asyncio.sleep(0)  # a stream that never waits must not keep the loop from others
            return
        for offset in range(0, len(body), CHUNK):
            self._put(bytes(body[offset : offset + CHUNK]), more or offset + CHUNK < len(body))
            await self._drain()

    def _put(self, data: bytes, more: bool) -> None:
        """Send a piece, and the start of the response before the first."""
        if self.finished:
            raise InvalidResponse(_TOO_LONG)
        first: list[frames.Start] = []
        if not self.started:
            assert self._start is not None, "the application sent a body before its status"
            first = [self._start]
            self._left = _length(self._start.headers) if more else None
        if self._left is not None:
            self._left -= len(data)
            # With its last byte the client has the whole response and may leave: what the
            # application still has to do, such as background tasks, is not to end with it.
            more = more and self._left != 0
        try:
            self._stream.send(*first, frames.Body(data, more))
        except FrameError as error:
            raise InvalidResponse("the headers of the function's response are too large") from error
        self.started, self.finished = True, not more

    async def _drain(self) -> None:
        try:
            await self._stream.drain()
        except ChannelClosed:
            raise OSError("the client is gone") from None


def _checked(close: frames.SocketClose) -> frames.SocketClose:
    """What may be sent (RFC 6455, sections 5.5 and 7.4); the client would not understand the rest."""
    code = close.code
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ValueError(f"a WebSocket cannot be closed with code {code}: use 1000, or one from 3000 to 4999")
    if len(close.reason.encode()) > _LONGEST_REASON:
        raise ValueError(f"a WebSocket's closing reason cannot be over {_LONGEST_REASON} bytes")
    return close


class SocketExchange:
    """The `receive` and `send` of one WebSocket."""

    def __init__(self, stream: RequestStream) -> None:
        self._stream = stream
        self._connected = self._left = False
        self._denial: frames.Start | None = None
        self.started = False
        self.finished = False

    def fail(self, failure: frames.Failure) -> None:
        """End with a failure."""
        self.finished = True
        self._stream.send(failure)

    async def receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        try:
            frame = await self._stream.receive()
        except ChannelClosed:
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        match frame:
            case frames.SocketMessage(text, data):
                return {"type": "websocket.receive", "text": text, "bytes": data}
            case frames.SocketClose(code, reason):
                self.finished = self._left = True
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
        raise AssertionError(f"a {type(frame).__name__} has no place in a WebSocket")

    async def send(self, message: Message) -> None:
        if self._stream.closed:
            raise OSError("the client is gone")
        match message["type"]:
            case "websocket.accept":
                self.started = True
                self._stream.send(frames.SocketAccept(message.get("subprotocol"), _headers(message)))
            case "websocket.send":
                # What it said before it left may not have been read yet; an answer comes too late.
                if self._left or isinstance(self._stream.newest, frames.SocketClose):
                    raise OSError("the client is gone")
                self._stream.send(frames.SocketMessage(message.get("text"), message.get("bytes")))
            case "websocket.close":
                close = _checked(frames.SocketClose(message.get("code", 1000), message.get("reason") or ""))
                self.finished = True
                self._stream.send(close)
            case "websocket.http.response.start":
                self._denial = _start(message)
            case "websocket.http.response.body":
                self._deny(message.get("body", b""), message.get("more_body", False))
        try:
            await self._stream.drain()
        except ChannelClosed:
            raise OSError("the client is gone") from None

    def _deny(self, body: bytes, more: bool) -> None:
        first = [] if self._denial is None else [self._denial]
        self._denial, self.started, self.finished = None, True, not more
        self._stream.send(*first, frames.Body(body, more))
