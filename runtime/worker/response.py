"""From what a handler returns to a response.

| returned | sent |
|---|---|
| a `Response` | as it is |
| dict, list, tuple, number, bool, dataclass, msgspec or pydantic model, numpy array | JSON |
| str | text/plain; charset=utf-8 |
| bytes | application/octet-stream |
| None | 204 |
| a generator, sync or async | a text/plain stream |
| an LLM stream | what its `.sse()`, `.text()` or `.raw()` says |
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing
from typing import Any, Protocol, cast, runtime_checkable

import msgspec
from anyio.to_thread import run_sync
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from runtime.errors import InvalidResponse
from runtime.worker import threads

_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@runtime_checkable
class Relayed(Protocol):
    """A stream that knows how it wants to be sent: `ai.Stream`, or a user's own."""

    content_type: str
    headers: list[tuple[str, str]]
    status: int

    def body(self) -> AsyncIterator[bytes]:
        """The bytes to send."""

    async def aclose(self) -> None:
        """Nobody wants the rest."""


def _plain(value: Any) -> Any:
    """Values that msgspec does not know: pydantic models, numpy arrays and scalars."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    tolist = getattr(value, "tolist", None)
    if tolist is not None:
        return tolist()
    raise TypeError(f"a {type(value).__name__} cannot be sent as JSON")


_END = object()
_json = msgspec.json.Encoder(enc_hook=_plain)


class JSONResponse(Response):
    """Anything that can be JSON: also dataclasses, msgspec and pydantic models, numpy arrays."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body's bytes."""
        return _json.encode(content)


def as_response(value: Any) -> Response:
    """The response for a handler's return value.

    Raises:
        InvalidResponse: nothing in the table above fits.
    """
    match value:
        case dict() | list():  # first, and apart from the rest: the usual case
            return _as_json(value)
        case StreamingResponse(media_type="text/event-stream"):
            for name, setting in _STREAM_HEADERS.items():
                value.headers.setdefault(name, setting)
            return value
        case Response():
            return value
        case None:
            return Response(status_code=204)
        case str():
            return Response(value, media_type="text/plain")
        case bytes() | bytearray() | memoryview():
            return Response(bytes(value), media_type="application/octet-stream")
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return _ClosingResponse(_text(value), media_type="text/plain", headers=_STREAM_HEADERS)
    if isinstance(value, Relayed) and not isinstance(value, type):
        return _relay(value)
    return _as_json(value)


def _as_json(value: Any) -> Response:
    try:
        return JSONResponse(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidResponse(
            f"the handler returned {_described(value)}, which is no response: {error}"
        ) from error


def _described(value: Any) -> str:
    kind = type(value).__name__
    return f"a {kind}"


class _ClosingResponse(StreamingResponse):
    """Closes what it sends, also when sending fails before or between the pieces."""

    source: Relayed | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(
            send
        )  # Starlette would take a generator's OSError for the client's leaving

    async def stream_response(self, send: Send) -> None:
        try:
            async with aclosing(cast(AsyncGenerator[bytes, None], self.body_iterator)):
                await super().stream_response(send)
        finally:
            if self.source is not None:
                await self.source.aclose()


def _relay(stream: Relayed) -> Response:
    response = _ClosingResponse(_generator(stream.body()), status_code=stream.status, headers=_STREAM_HEADERS)
    response.source = stream
    for name, value in stream.headers:
        response.headers[name] = value
    response.headers["content-type"] = stream.content_type
    return response


async def _generator(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        yield piece


async def _text(pieces: Generator[Any, Any, Any] | AsyncGenerator[Any, Any]) -> AsyncIterator[bytes]:
    """The pieces of a generator as bytes; it is closed whatever happens."""
    if inspect.isasyncgen(pieces):
        async with aclosing(pieces):
            async for piece in pieces:
                yield _bytes(piece)
        return
    assert inspect.isgenerator(pieces)
    async with aclosing(_on_threads(pieces)) as awaited:
        async for piece in awaited:
            yield _bytes(piece)


async def _on_threads(pieces: Generator[Any, Any, Any]) -> AsyncGenerator[Any, None]:
    """The pieces of a generator that may block: each step runs on a thread, and so does its closing."""
    step: threads.Running | None = None
    try:
        while True:
            step = threads.begin(next, pieces, _END)
            piece = await threads.result(step)
            if piece is _END:
                return
            yield piece
    finally:
        if step is not None:
            await asyncio.wait([step])  # a generator cannot be closed while it runs
        await run_sync(pieces.close)


def _bytes(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    return _json.encode(piece) + b"\n"
