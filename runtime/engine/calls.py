"""The calls of one connection: many at once, told apart by their ids."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from runtime.channel import Stream
from runtime.engine.embedder import Embedder
from runtime.engine.scheduler import Form
from runtime.errors import ChannelClosed, EngineUnavailable, FunctionsError, UsageError, rule_of
from runtime.frames import Cancel, Embed, Embedded, EngineCall, Refused, Vectors, Warm

log = logging.getLogger("runtime.engine")

_AT_ONCE = 64
"""Calls of one connection that are in flight; more are not read."""


class Calls:
    """Answers one connection until it closes, which cancels whatever it still waits for."""

    def __init__(self, stream: Stream[EngineCall], embedder: Embedder) -> None:
        self.stream = stream
        self._embedder = embedder
        self._running: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # also of calls that nobody waits for any more

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """One task per call in flight."""
        return list(self._running.values())

    async def serve(self) -> None:
        """Take calls until the connection is gone."""
        self.stream.on_lost = self._cancel
        try:
            while True:
                self._take(await self.stream.receive())
                await self._room()
        except ChannelClosed:
            pass
        finally:
            self._cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _room(self) -> None:
        """Leave further calls in the socket while there are many: it slows their sender alone."""
        while len(self._tasks) >= _AT_ONCE:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        if self.stream.closed:
            raise ChannelClosed

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _take(self, frame: EngineCall) -> None:
        # An id in use again means that the former call is of no interest any more.
        former = self._running.pop(frame.id, None)
        if former is not None:
            former.cancel()
        if isinstance(frame, Cancel):
            return
        task = asyncio.create_task(self._answer(frame))
        self._running[frame.id] = task
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._forget(frame.id, task))

    def _forget(self, id: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._running.get(id) is task:
            del self._running[id]

    async def _answer(self, call: Embed | Warm) -> None:
        try:
            await (self._embed(call) if isinstance(call, Embed) else self._warm(call))
        except ChannelClosed:
            pass
        except Exception as error:
            self.stream.send(_refusal(call.id, error))

    async def _warm(self, call: Warm) -> None:
        model = await self._embedder.model(call.model)
        self.stream.send(Embedded(call.id, model.dimensions, [], [], []))

    async def _embed(self, call: Embed) -> None:
        form = Form(call.mean_pool, call.normalize)
        rows: list[int] = []
        tokens: list[int] = []
        truncated: list[int] = []
        with self._embedder.room(call.texts, form):
            model = await self._embedder.model(call.model)
            async with aclosing(self._embedder.embed(model, call.texts, form)) as parts:
                async for part in parts:
                    for piece in part.pieces:
                        await self.stream.drain()
                        self.stream.send(Vectors(call.id, piece))
                    truncated += [len(rows) + at for at, text in enumerate(part.texts) if text.truncated]
                    tokens += [len(text.ids) for text in part.texts]
                    rows += part.rows
        self.stream.send(Embedded(call.id, model.dimensions, rows, tokens, truncated))


def _refusal(id: int, error: Exception) -> Refused:
    if isinstance(error, UsageError):  # of a model's files
        return Refused(id, rule_of(EngineUnavailable()).code, str(error))
    if isinstance(error, FunctionsError):
        return Refused(id, rule_of(error).code, error.message)
    log.error("an embedding call failed", exc_info=error)
    failed = EngineUnavailable("The inference engine failed on this call; the server's log says why")
    return Refused(id, rule_of(failed).code, failed.message)
