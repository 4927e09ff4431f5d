"""The answer of an LLM, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Literal

from runtime.ai.llm import sse
from runtime.ai.llm.chunk import Chunk
from runtime.ai.llm.wire import Wire
from runtime.errors import AIError, IncompleteStream, UpstreamError, rule_of

if TYPE_CHECKING:
    from runtime.ai.llm.client import Upstream

SILENCE = 15.0
"""Seconds without an event after which a comment is sent."""


class Stream:
    """Iterate over it for the provider's objects, or return it from a handler.

    Returned, it is sent as server-sent events unless `text` or `raw` was called. It is read
    once. Left alone, broken out of or cancelled, it closes the connection to the LLM
    server, which then stops generating.

    Raises:
        InferenceTimeout: a limit of `timeout` passed.
        UpstreamError: the server reported an error inside the stream.
        IncompleteStream: the stream ended without its closing event.
    """

    def __init__(self, upstream: Upstream, wire: Wire) -> None:
        self._upstream, self._wire = upstream, wire
        self._ready: Iterator[Chunk] = iter(())
        self._over = False
        self._form: Literal["sse", "text", "raw"] = "sse"

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Stop: close the connection to the LLM server. Idempotent.

        Whoever reads or sends the stream meanwhile finds that it ended, without `[DONE]`.
        """
        self._over = True
        await self._upstream.aclose()

    # how it is sent

    def sse(self) -> Stream:
        """Send it as server-sent events: one per object, then `[DONE]`."""
        self._form = "sse"
        return self

    def text(self) -> Stream:
        """Send the text alone, as text/plain."""
        self._form = "text"
        return self

    def raw(self) -> Stream:
        """Send the server's own bytes, content type and status."""
        self._form = "raw"
        return self

    @property
    def status(self) -> int:
        """What to send: 200, or the server's own."""
        return self._upstream.status if self._form == "raw" else 200

    @property
    def content_type(self) -> str:
        """That of what is sent."""
        if self._form == "raw":
            return self._upstream.content_type
        return "text/event-stream" if self._form == "sse" else "text/plain; charset=utf-8"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What to send besides the content type, so that nothing on the way holds pieces back."""
        headers = [("cache-control", "no-cache"), ("x-accel-buffering", "no")]
        if self._form == "raw" and self._upstream.content_encoding:
            headers.append(("content-encoding", self._upstream.content_encoding))
        return headers

    def body(self) -> AsyncIterator[bytes]:
        """The bytes to send. An error is raised after what can be said of it was sent."""
        forms = {"sse": self._events, "text": self._texts, "raw": self._bytes}
        return forms[self._form]()

    async def _events(self) -> AsyncIterator[bytes]:
        reading: asyncio.Task[Chunk | None] | None = None
        try:
            while True:
                reading = asyncio.create_task(self._next())
                while not (await asyncio.wait({reading}, timeout=SILENCE))[0]:
                    yield sse.BEAT
                chunk = reading.result()
                if chunk is None:
                    break
                yield sse.event(chunk)
            if self._wire.finished:
                yield sse.DONE
        except AIError as error:
            yield sse.error_event(rule_of(error).code, error.message)
            raise
        finally:
            if reading is not None:
                await _abandon(reading)
            await self.aclose()

    async def _texts(self) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._next()) is not None:
                if text := self._wire.text(chunk):
                    yield text.encode(errors="replace")
        finally:
            await self.aclose()

    async def _bytes(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._read(raw=True):
                yield piece
        finally:
            await self.aclose()

    async def _next(self) -> Chunk | None:
        try:
            while not self._over:
                chunk = next(self._ready, None)
                if chunk is not None:
                    return chunk
                await self._more()
            return None
        except UpstreamError as error:
            await self.aclose()
            raise UpstreamError(error.status, self._upstream.clean(error.body)) from None
        except BaseException:
            await self.aclose()
            raise

    async def _more(self) -> None:
        if self._wire.finished:
            self._over = True
            await self._upstream.finish()
            return
        piece = await self._read()
        if not self._over:
            self._ready = self._wire.feed(piece) if piece else self._wire.end()

    async def _read(self, *, raw: bool = False) -> bytes:
        try:
            return await self._upstream.read(raw=raw)
        except IncompleteStream:
            if not self._over:
                raise
            return b""  # another task closed it, which breaks the connection


async def _abandon(reading: asyncio.Task[Chunk | None]) -> None:
    """End a read that nobody waits for, and its connection with it."""
    reading.cancel()
    await asyncio.wait({reading})
    if not reading.cancelled():
        reading.exception()  # it was raised already, or came too late to matter
