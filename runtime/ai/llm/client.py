"""Calls to an LLM server over HTTP, with limits that hold and connections that close."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
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
# Seconds between tries to connect: long enough for a server that restarts quickly, and short enough
# that somebody whose LLM server is not running hears of it soon.
_PAUSES = (0.1, 0.3, 0.9)
# Several servers close a connection that was idle for 5 s: be earlier than they, because a request
# that crosses their closing on the way is lost, and may not be sent again.
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=4)

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
        if not piece:
            await _close_if_spoiled(self._response)
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

    Connecting is tried again while `timeout` allows; what may have reached the server is not
    sent twice.

    Raises:
        HostUnreachable, InferenceTimeout, UpstreamError: there is none.
        HostNotConfigured: the server's URL is none.
    """
    clock = Clock(timeout, server.url)
    client = _client(server)
    try:
        request = client.build_request(
            "POST", _join(server.url, path), content=body, headers=_headers(server), timeout=None
        )
        response = await clock.bounded(_Sending(server, timeout).send(client, request), "first_token")
    except httpx2.InvalidURL as error:
        raise HostNotConfigured(f"{server.source} is {server.url!r}, which is no URL ({error})") from None
    upstream = Upstream(response, server, clock)
    if not response.is_success:
        raise await upstream.failure()
    return upstream


class _Sending:
    """The way of one request to its server: many tries to connect, one to send."""

    def __init__(self, server: Server, timeout: Timeout) -> None:
        self._server = server
        # what answers in the server's place has no connection to wait for
        self._connect = None if server.transport else timeout.connect
        limits = [limit for limit in (self._connect, timeout.first_token, timeout.total) if limit]
        self._until = asyncio.get_running_loop().time() + min(limits) if limits else None
        self._connecting: asyncio.Timeout
        self._sent = False
        self._tries = 0

    async def send(self, client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
        """
        Raises:
            HostUnreachable: nobody is there, or hangs up, or speaks another language.
            InferenceTimeout: nobody took the connection in time.
        """
        request.extensions["trace"] = self._trace
        try:
            async with asyncio.timeout(self._connect) as self._connecting:
                return await self._tried(client, request)
        except TimeoutError:
            if not self._connecting.expired():
                raise
            raise InferenceTimeout(
                f"{self._server.url} took no connection within {self._connect:g} s (timeout.connect): "
                f"{_hint(self._server)}"
            ) from None
        finally:
            # it leads to the handler's task, and so to the answer, which would never be let go
            del request.extensions["trace"]

    async def _tried(self, client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
        pauses = iter(_PAUSES)
        while True:
            self._tries += 1
            try:
                return await client.send(request, stream=True)
            except httpx2.TransportError as error:
                pause = next(pauses, None)
                if pause is None or not self._may_try_again(error, pause):
                    raise self._failure(error) from error
            await asyncio.sleep(pause)

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("send_request_headers.started") and not self._connecting.expired():
            self._sent = True
            self._connecting.reschedule(None)

    def _may_try_again(self, error: httpx2.TransportError, pause: float) -> bool:
        if self._sent or not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return False
        said = next((below for below in _below(error) if isinstance(below, OSError)), None)
        if isinstance(said, ssl.SSLError):  # a certificate does not get better by waiting
            return False
        return self._until is None or asyncio.get_running_loop().time() + pause < self._until

    def _failure(self, error: httpx2.TransportError) -> HostUnreachable:
        server = self._server
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            tries = f" in {self._tries} tries" if self._tries > 1 else ""
            what = f"cannot be reached{tries} ({_cause(error)})"
        elif isinstance(error, httpx2.RemoteProtocolError) and not _hung_up(error):
            what = f"answers with something that is not HTTP ({server.clean(str(error))})"
        else:
            what = "closed the connection without an answer"
        return HostUnreachable(f"{server.url} {what}: {_hint(server)}")


def _headers(server: Server) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept-encoding": "identity", **dict(server.headers)}
    if server.authorization:
        headers["authorization"] = server.authorization
    return headers


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


def _hung_up(error: httpx2.RemoteProtocolError) -> bool:
    """Whether no answer came at all; httpcore2 tells that from a bad one by its words alone."""
    return str(error).startswith("Server disconnected")


def _cause(error: httpx2.TransportError) -> str:
    """What the system said, below what the libraries made of it."""
    for below in _below(error):
        if isinstance(below, ConnectionError) and below.errno:
            return os.strerror(below.errno).lower()
        if isinstance(below, OSError) and below.errno:
            return below.strerror or str(below)
    return str(error)


def _below(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and so on; of a group, its first."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, BaseExceptionGroup):
            below = below.exceptions[0]
        yield below
        below = below.__cause__ or below.__context__


async def _close_if_spoiled(response: httpx2.Response) -> None:
    """Close a connection that brought more than the answer's length: the next answer would begin with it.

    httpcore2 keeps such a connection, and has no public way to it.
    """
    inner: Any = response.stream
    for name in ("_stream", "_httpcore_stream", "_stream", "_connection"):
        inner = getattr(inner, name, None)
    received = getattr(inner, "_h11_state", None)
    if received is not None and received.trailing_data[0]:
        await inner.aclose()


def _close_soon(loop: asyncio.AbstractEventLoop, response: httpx2.Response) -> None:
    if response.is_closed or loop.is_closed():
        return

    def begin() -> None:
        task = loop.create_task(response.aclose())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    loop.call_soon_threadsafe(begin)
