"""A request's body on its way from the client to a worker."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from runtime import frames
from runtime.channel import CHUNK
from runtime.errors import BadRequest, ChannelClosed, FunctionsError, PayloadTooLarge
from runtime.gateway.worker import ResponseStream

KEPT = 64 * 1024
"""How much is read before a worker has accepted the request, and kept for a second try."""


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
        self._receive, self._limit = receive, limit
        self._kept: list[bytes] = []
        self._size = 0
        self._accepted = asyncio.Event()
        length = _announced(scope)
        self.more = length != 0  # something is still to come from the client
        if limit and length is not None and length > limit:
            raise self._too_large()
        self.failure: FunctionsError | ClientGone | None = None
        """Why the worker's connection was aborted, when it was for the client's sake."""

    @property
    def expects_body(self) -> bool:
        """A body follows the head, from the client or from what was kept."""
        return self.more or bool(self._kept)

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
        self._accepted.set()

    async def pour(self, stream: ResponseStream) -> None:
        """Send the body to a worker, then watch for the client's leaving.

        Does not return before one of them goes; aborts the connection to the worker and
        sets `failure` when it is the client's doing.
        """
        try:
            await self._pour(stream)
        except ChannelClosed:
            return
        except (FunctionsError, ClientGone) as failure:
            self.failure = failure
            stream.abort()

    async def _pour(self, stream: ResponseStream) -> None:
        kept = list(self._kept)
        for index, piece in enumerate(kept):
            stream.send(frames.Body(piece, self.more or index + 1 < len(kept)))
        while self.more:
            if self._size >= KEPT and not self._accepted.is_set():
                await self._accepted.wait()
            await self._pass_on(stream)
        await self._next()

    async def _pass_on(self, stream: ResponseStream) -> None:
        data = await self._next()
        if self._size <= KEPT or not self._accepted.is_set():
            self._kept.append(data)
        for offset in range(0, max(len(data), 1), CHUNK):
            rest = offset + CHUNK < len(data)
            stream.send(frames.Body(data[offset : offset + CHUNK], self.more or rest))
            await stream.drain()

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
        return PayloadTooLarge(
            f"The request body is over this function's limit of {self._limit / 1e6:g} MB (max_body_mb)"
        )


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
