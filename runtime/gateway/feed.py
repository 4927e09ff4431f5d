"""A request's body on its way from the client to a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from starlette.types import Receive, Scope

from runtime import frames
from runtime.channel import CHUNK
from runtime.errors import BadRequest, ChannelClosed, FunctionsError, PayloadTooLarge
from runtime.gateway.client import CLIENT, Client
from runtime.gateway.responsestream import ResponseStream

KEPT = 64 * 1024
"""How much is read before a worker has accepted the request, and kept for a second try."""


def _nothing() -> None:
    """For those who need not be told."""


class ClientGone(Exception):
    """The client closed the connection."""


class Feed:
    """Passes the body on piece by piece, no faster than the worker takes it.

    Until the request is accepted, at most 64 KB are read and kept, so that another worker
    can be given the whole of it.

    Args:
        limit: bytes; 0: no limit.

    Raises:
        PayloadTooLarge: Content-Length announces more than `limit`.
        BadRequest: Content-Length is no number.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self._scope, self._receive, self._limit = scope, receive, limit
        self._client: Client | None = scope.get(CLIENT)
        self._kept: list[bytes] = []
        self._size = 0
        self._is_accepted = False
        self._waiting: asyncio.Future[None] | None = None
        length = _announced(scope)
        self.more = length != 0  # something is still to come from the client
        if limit and length is not None and length > limit:
            raise self._too_large()
        self.starved = False
        """The client is to send more of the body, and is waited for."""
        self.failure: FunctionsError | ClientGone | None = None
        """Why the worker's connection was aborted, when it was for the client's sake."""

    @property
    def replayable(self) -> bool:
        """Everything read so far is still here, for another worker."""
        return self._size == sum(map(len, self._kept))

    def accepted(self, *, keep: bool = False) -> None:
        """A worker has begun with the request: read on.

        Args:
            keep: it may have to be given to another worker after all.
        """
        if not keep:
            self._kept.clear()
        self._is_accepted = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def prefetch(self) -> None:
        """Take the body in one go if all of it is here: most requests need no more."""
        if self.more and self._client is not None and self._client.has_sent_all(self._scope):
            self._kept.append(await self._next())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the request waits for its turn, the client's leaving ends the wait.

        Raises:
            ClientGone: it left.
        """
        client, task = self._client, asyncio.current_task()
        if client is None or task is None:
            yield
            return
        if client.has_left():
            raise ClientGone
        client.on_leave = task.cancel
        try:
            yield
        except asyncio.CancelledError:
            if not client.has_left() or task.uncancel():
                raise
            raise ClientGone from None
        finally:
            client.on_leave = None

    def give_up(self) -> None:
        """The response ends before its end: do not wait for a client that does not read it."""
        if self._client is not None:
            self._client.give_up()

    def begin(
        self, head: frames.Head, stream: ResponseStream, on_piece: Callable[[], None] = _nothing
    ) -> Callable[[], object]:
        """Send the head and what is here of the body; pass on the rest as it comes.

        Args:
            on_piece: called with every piece that comes.

        Until the returned function is called, the client's leaving (and a body that breaks a
        limit) aborts the connection to the worker and says why in `failure`.
        """
        self.starved = self._is_accepted = False
        head.more = self.more or bool(self._kept)
        stream.send(head, *(self._pieces() if self._kept else ()))
        if self._client is None or self.more:
            return asyncio.get_running_loop().create_task(self._pour(stream, on_piece)).cancel
        client = self._client
        client.on_leave = lambda: self._fail(ClientGone(), stream)
        if client.has_left():
            client.on_leave()
        return lambda: setattr(client, "on_leave", None)

    def _pieces(self) -> Iterator[frames.Body]:
        """What was kept, as frames that are no longer than a frame may be."""
        for index, data in enumerate(self._kept):
            last = index + 1 == len(self._kept) and not self.more
            yield from _cut(data, last)

    def _fail(self, failure: FunctionsError | ClientGone, stream: ResponseStream) -> None:
        self.failure = failure
        stream.abort()

    async def _pour(self, stream: ResponseStream, on_piece: Callable[[], None]) -> None:
        """Pass on the rest, no faster than the worker takes it, then watch for the client's leaving."""
        try:
            while self.more:
                if self._size >= KEPT and not self._is_accepted:
                    await self._acceptance(stream)
                await self._pass_on(stream, on_piece)
            while True:
                await self._next()  # a request without a body has one event that says so
        except ChannelClosed:
            return
        except (FunctionsError, ClientGone) as failure:
            self._fail(failure, stream)

    async def _acceptance(self, stream: ResponseStream) -> None:
        """Wait for a worker to begin."""
        self._waiting = asyncio.get_running_loop().create_future()
        with self._not_reading(stream):
            await self._waiting

    async def _pass_on(self, stream: ResponseStream, on_piece: Callable[[], None]) -> None:
        self.starved = True
        data = await self._next()
        self.starved = False
        on_piece()
        if self._size <= KEPT or not self._is_accepted:
            self._kept.append(data)
        for piece in _cut(data, last=not self.more):
            stream.send(piece)
            if stream.lost:
                raise ChannelClosed
            if stream.congested:
                with self._not_reading(stream):
                    await stream.drain()

    @contextmanager
    def _not_reading(self, stream: ResponseStream) -> Iterator[None]:
        """While nothing is read that would tell of the client's leaving, its connection does."""
        client, leave = self._client, partial(self._fail, ClientGone(), stream)
        if client is None:
            yield
            return
        client.on_leave = leave
        if client.has_left():
            leave()
        try:
            yield
        finally:
            if client.on_leave is leave:  # else it is another's by now
                client.on_leave = None

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        data: bytes = message.get("body", b"")
        self.more = message.get("more_body", False)
        self._size += len(data)
        if self._limit and self._size > self._limit:
            raise self._too_large()
        return data

    def _too_large(self) -> PayloadTooLarge:
        text = f"The request body is over this function's limit of {self._limit / 1e6:g} MB (max_body_mb)"
        return PayloadTooLarge(text, limit="max_body_mb")


def _cut(data: bytes, last: bool) -> Iterator[frames.Body]:
    """Frames for a piece of the body; `last`: nothing follows it."""
    if len(data) <= CHUNK:
        yield frames.Body(data, not last)
        return
    for offset in range(0, len(data), CHUNK):
        yield frames.Body(data[offset : offset + CHUNK], not last or offset + CHUNK < len(data))


def _announced(scope: Scope) -> int | None:
    """Bytes that the head announces; 0 when there is no body, None when its length is not told."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit():
                raise BadRequest("Content-Length is not a number")
            return int(value)
        if name == b"transfer-encoding":
            return None
    return 0
