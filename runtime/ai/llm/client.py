"""Calls to an LLM server over HTTP, with limits that hold and connections that close."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncIterator
from weakref import WeakKeyDictionary

import httpx2

from runtime.ai.llm.server import Server
from runtime.ai.timeout import Clock, Timeout
from runtime.errors import (
    AIError,
    HostNotConfigured,
    HostUnreachable,
    IncompleteStream,
    InferenceTimeout,
    UpstreamError,
)

_GRACE = 0.25  # seconds for the end of a body whose last event has come, to keep the connection
_ERROR_BODY = 8192
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=5)

_Clients = dict[bool | httpx2.AsyncBaseTransport, httpx2.AsyncClient]
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Clients] = WeakKeyDictionary()
_closing: set[asyncio.Task[None]] = set()


class Upstream:
    """One answer of a server: its head is here, its body is to be read.

    An answer that nobody refers to any more closes its connection by itself.
    """

    def __init__(self, response: httpx2.Response, server: Server, clock: Clock) -> None:
        self._response, self._server, self._clock = response, server, clock
        self._pieces: AsyncIterator[bytes] | None = None
        self._begun = False
        self._abandoned = weakref.finalize(self, _close_soon, asyncio.get_running_loop(), response)
        self._abandoned.atexit = False

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def content_type(self) -> str:
        return self._response.headers.get("content-type", "application/octet-stream")

    @property
    def content_encoding(self) -> str:
        return self._response.headers.get("content-encoding", "")

    def clean(self, text: str) -> str:
        """`text` without the server's secrets, and not long."""
        return self._server.clean(text)

    async def read(self, *, raw: bool = False) -> bytes:
        """The next piece of the body; empty at its end.

        Args:
            raw: as it came, with any content encoding. The first call decides for all.

        Raises:
            InferenceTimeout: a limit passed.
            IncompleteStream: the connection broke.
        """
        if self._pieces is None:
            self._pieces = self._response.aiter_raw() if raw else self._response.aiter_bytes()
        try:
            piece = await self._clock.bounded(
                anext(self._pieces, b""), "idle" if self._begun else "first_token"
            )
        except (httpx2.TransportError, httpx2.DecodingError, httpx2.StreamError) as error:
            raise IncompleteStream(
                f"The connection to {self._server.url} broke in the middle of the answer: "
                "what came so far is not the whole"
            ) from error
        self._begun = True
        return piece

    async def read_all(self) -> bytes:
        """The whole body. Raises as `read` does."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def finish(self) -> None:
        """Nothing of interest is to come: read what is left if that is quick, and close."""
        with contextlib.suppress(TimeoutError, AIError):
            async with asyncio.timeout(_GRACE):
                while await self.read():
                    pass
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connection; in the middle of a body that closes it. Idempotent."""
        if self._abandoned.detach():
            await self._response.aclose()

    async def failure(self) -> UpstreamError:
        """The error that this answer stands for."""
        body = b""
        try:
            while len(body) < _ERROR_BODY and (piece := await self.read()):
                body += piece
        except IncompleteStream:
            pass  # the beginning of an error is better than none
        finally:
            await self.aclose()
        text = self.clean(body.decode(errors="replace").strip())
        return UpstreamError(self.status, text or self._response.reason_phrase or "(no body)")


async def post(server: Server, path: str, body: bytes, timeout: Timeout) -> Upstream:
    """Send a request and wait for the head of a successful answer.

    Raises:
        HostUnreachable, InferenceTimeout, UpstreamError: there is none.
        HostNotConfigured: the server's URL is none.
    """
    clock = Clock(timeout, server.url)
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if server.authorization:
        headers["authorization"] = server.authorization
    limits = httpx2.Timeout(None, connect=timeout.connect, pool=timeout.connect)
    client = _client(server)
    try:
        request = client.build_request(
            "POST", _join(server.url, path), content=body, headers=headers, timeout=limits
        )
        response = await clock.bounded(client.send(request, stream=True), "first_token")
    except httpx2.InvalidURL as error:
        raise HostNotConfigured(f"{server.source} is {server.url!r}, which is no URL ({error})") from None
    except (httpx2.ConnectTimeout, httpx2.PoolTimeout):
        raise InferenceTimeout(
            f"{server.url} took no connection within {timeout.connect:g} s (timeout.connect): {_hint(server)}"
        ) from None
    except httpx2.ConnectError as error:
        raise HostUnreachable(f"{server.url} cannot be reached ({_cause(error)}): {_hint(server)}") from error
    except httpx2.TransportError as error:
        raise HostUnreachable(
            f"{server.url} closed the connection without an answer: {_hint(server)}"
        ) from error
    upstream = Upstream(response, server, clock)
    if not response.is_success:
        raise await upstream.failure()
    return upstream


async def close() -> None:
    """Close the kept connections of this event loop."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.aclose()


def _client(server: Server) -> httpx2.AsyncClient:
    """One per event loop and transport, and one without the certificates that plain HTTP does not need."""
    secure = server.url.startswith("https:")
    kind = server.transport or secure
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if kind not in clients:
        clients[kind] = httpx2.AsyncClient(
            transport=server.transport, verify=secure, trust_env=False, follow_redirects=False, limits=_LIMITS
        )
    return clients[kind]


def _join(url: str, path: str) -> str:
    """`path` under the server's base path; a base that has the version already keeps it once."""
    return url + (path.removeprefix("/v1") if url.endswith("/v1") else path)


def _hint(server: Server) -> str:
    if server.source == "host":
        return "is the LLM server running? Check the session's `host`"
    return (
        f"is the LLM server running? Check {server.source} in supabase/functions/.env. No local model has "
        "this name; if the catalogue has it: `functions models pull NAME`"
    )


def _cause(error: httpx2.ConnectError) -> str:
    """What the system said, below what the libraries made of it."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, BaseExceptionGroup):
            below = below.exceptions[0]
        if isinstance(below, ConnectionError) and below.errno:
            return os.strerror(below.errno).lower()
        if isinstance(below, OSError) and below.errno:
            return below.strerror or str(below)
        below = below.__cause__ or below.__context__
    return str(error)


def _close_soon(loop: asyncio.AbstractEventLoop, response: httpx2.Response) -> None:
    if response.is_closed or loop.is_closed():
        return

    def begin() -> None:
        task = loop.create_task(response.aclose())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    loop.call_soon_threadsafe(begin)
