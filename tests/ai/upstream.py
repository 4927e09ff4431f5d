"""A scripted LLM server: real TCP on loopback, HTTP/1.1 written by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

from runtime.ai.llm import client

END = b"0\r\n\r\n"
"""The end of a chunked answer."""


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Call:
    """What a script may do with one request."""

    def __init__(self, request: Request, transport: asyncio.Transport, gone: asyncio.Event) -> None:
        self.request, self.gone = request, gone
        self._transport = transport

    def head(
        self,
        status: int = 200,
        content_type: str = "application/x-ndjson",
        length: int | None = None,
        **headers: str,
    ) -> None:
        """Begin an answer: chunked, or of a length, which need not be true (then `write` its body)."""
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        lines = [f"HTTP/1.1 {status} Said So", f"Content-Type: {content_type}", framing]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.write("\r\n".join([*lines, "", ""]).encode())

    def piece(self, data: bytes) -> None:
        """One HTTP chunk: clients see it as one piece, whatever TCP does."""
        self.write(framed(data))

    def pieces(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self.piece(part)

    async def drip(self, data: bytes, sizes: Iterable[int]) -> None:
        """Bytes of the connection, framing included, cut wherever `sizes` say."""
        at = 0
        for size in sizes:
            if at >= len(data):
                break
            self.write(data[at : at + size])
            at += size
            await asyncio.sleep(0)

    def end(self) -> None:
        self.write(END)

    def die(self) -> None:
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def answer(
        self, status: int, body: bytes, content_type: str = "application/json", **headers: str
    ) -> None:
        """A whole answer."""
        self.head(status, content_type, None, **headers)
        if body:
            self.piece(body)
        self.end()


Script = Callable[[Call], Awaitable[None]]


class Upstream:
    """
    Attributes:
        requests: what came so far.
        connections: how many were opened.
        gone: the last connection was closed by the client (or is over for another reason).
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.connections = 0
        self.gone = asyncio.Event()
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.open: set[asyncio.Transport] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def hang_up(self) -> None:
        """Close every connection, those too that wait for a next request."""
        for transport in list(self.open):
            transport.close()
        await self.gone.wait()


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._gone = asyncio.Event()
        upstream.connections += 1
        upstream.gone = self._gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._upstream.open.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.open.discard(self._transport)
        self._gone.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        method, path, _ = first.split(" ")
        request = Request(method, path, headers, rest[:length])
        self._upstream.requests.append(request)
        call = Call(request, self._transport, self._gone)
        task = asyncio.ensure_future(self._upstream.script(call))
        self._upstream.tasks.add(task)


@asynccontextmanager
async def serve(script: Script, port: int = 0) -> AsyncIterator[Upstream]:
    """Run a script for every request; a failing script fails the test."""
    upstream = Upstream(script)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(upstream), "127.0.0.1", port)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        await client.close()
        server.close()
        for task in upstream.tasks:
            task.cancel()
        results = await asyncio.gather(*upstream.tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result


async def for_ever(call: Call) -> None:
    """Say nothing until the client leaves."""
    await call.gone.wait()


def framed(*pieces: bytes) -> bytes:
    """HTTP chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def ndjson(*objects: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in objects)


def sse(*objects: dict[str, Any], done: bool = True) -> bytes:
    events = "".join(f"data: {json.dumps(value, ensure_ascii=False)}\n\n" for value in objects)
    return (events + ("data: [DONE]\n\n" if done else "")).encode()


SONG = ["Ich ", "höre ", "火 und ", "🎵🎶", " naïve", " Reime\u2028\u0085!"]
"""Pieces of an answer with characters of one to four bytes, and two that some take for line ends."""


def generated(*pieces: str, done: bool = True) -> list[dict[str, Any]]:
    """The objects of Ollama's /api/generate."""
    objects: list[dict[str, Any]] = [
        {"model": "m", "created_at": "2026-11-20T10:00:00.123Z", "response": piece, "done": False}
        for piece in pieces
    ]
    if done:
        objects.append({"model": "m", "response": "", "done": True, "done_reason": "stop", "eval_count": 7})
    return objects


def completed(*pieces: str, reason: str | None = "stop") -> list[dict[str, Any]]:
    """The objects of a streamed chat completion."""
    objects: list[dict[str, Any]] = [
        {"id": "c", "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in pieces
    ]
    if reason is not None:
        objects.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    return objects
