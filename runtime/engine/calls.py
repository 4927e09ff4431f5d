"""The calls of one connection: many at once, told apart by their ids."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from contextlib import aclosing

import msgspec

from runtime.channel import Stream
from runtime.engine.embedder import Embedder
from runtime.engine.scheduler import Form
from runtime.errors import (
    ChannelClosed,
    EngineUnavailable,
    FunctionsError,
    InferenceTimeout,
    InvalidInput,
    ModelBroken,
    UsageError,
    rule_of,
)
from runtime.frames import (
    Cancel,
    Count,
    Counted,
    Embed,
    Embedded,
    EngineCall,
    Open,
    Opened,
    Piece,
    Ran,
    Rank,
    Ranked,
    Refused,
    Run,
    Vectors,
    Warm,
)
from runtime.tensors import Parcel, pieces

log = logging.getLogger("runtime.engine")

_Call = Embed | Rank | Count | Warm | Open | Run

_AT_ONCE = 64
"""Calls of one connection that are in flight; more are not read."""

SILENCE_S = 30.0
"""How long a run waits for the next piece of its inputs."""

_decoder: msgspec.msgpack.Decoder[EngineCall] = msgspec.msgpack.Decoder(EngineCall)


class CallStream(Stream[EngineCall]):
    """A connection whose calls can be cancelled before they are taken, and while no more are.

    Attributes:
        on_cancel: called at once with the id of a call that nobody waits for any more.
    """

    def __init__(self) -> None:
        super().__init__(_decoder)
        self.on_cancel: Callable[[int], None] = lambda id: None

    def arrived(self, frame: EngineCall, size: int) -> None:
        if isinstance(frame, Cancel):
            self.drop(lambda other: other.id == frame.id)
            self.on_cancel(frame.id)
        else:
            super().arrived(frame, size)

    def unreadable(self, error: Exception) -> None:
        log.warning("a connection is closed, for what came over it is no call: %s", error)
        super().unreadable(error)


class _Arriving:
    """The inputs of a run, while their pieces come."""

    def __init__(self, run: Run) -> None:
        self._parcel = Parcel(run.tensors)
        self._news = asyncio.Event()
        self._error: InvalidInput | None = None

    def add(self, piece: bytes) -> None:
        try:
            self._parcel.add(piece)
        except InvalidInput as error:
            self._error = error
        if piece:
            self._news.set()

    async def all(self) -> Parcel:
        """What has arrived, as soon as it is all.

        Raises:
            InvalidInput: it is not what was announced.
            InferenceTimeout: nothing more came.
        """
        while not (self._error or self._parcel.whole):
            self._news.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._news.wait()
            except TimeoutError:
                raise InferenceTimeout(
                    f"Nothing more of the graph's inputs arrived for {SILENCE_S:g} s"
                ) from None
        if self._error:
            raise self._error
        return self._parcel


class Calls:
    """Answers one connection until it closes, which cancels whatever it still waits for."""

    def __init__(self, stream: CallStream, embedder: Embedder) -> None:
        self.stream = stream
        stream.on_cancel = self._end
        self._embedder = embedder
        self._running: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # also of calls that nobody waits for any more
        self._arriving: dict[int, _Arriving] = {}

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
        if isinstance(frame, Piece):
            if arriving := self._arriving.get(frame.id):  # else its call has been refused already
                arriving.add(frame.data)
            return
        assert not isinstance(frame, Cancel)  # these the stream takes itself
        # An id in use again means that the former call is of no interest any more.
        self._end(frame.id)
        if isinstance(frame, Run):  # here, not in the task: its first piece may be next in line
            self._arriving[frame.id] = _Arriving(frame)
        task = asyncio.create_task(self._answer(frame))
        self._running[frame.id] = task
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._forget(frame.id, task))

    def _end(self, id: int) -> None:
        former = self._running.pop(id, None)
        self._arriving.pop(id, None)
        if former is not None:
            former.cancel()

    def _forget(self, id: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._running.get(id) is task:
            del self._running[id]
            self._arriving.pop(id, None)

    async def _answer(self, call: _Call) -> None:
        try:
            await self._work(call)
        except ChannelClosed:
            pass
        except Exception as error:
            self.stream.send(_refusal(call.id, error))

    async def _work(self, call: _Call) -> None:
        match call:
            case Embed():
                await self._embed(call)
            case Rank():
                await self._rank(call)
            case Count():
                await self._count(call)
            case Warm():
                await self._warm(call)
            case Open():
                await self._open(call)
            case Run():
                await self._run(call, self._arriving[call.id])

    async def _open(self, call: Open) -> None:
        async with self._embedder.graphs.using(call.paths) as graph:
            self.stream.send(Opened(call.id, graph.inputs, graph.outputs))

    async def _run(self, call: Run, arriving: _Arriving) -> None:
        graphs = self._embedder.graphs
        with graphs.room(call.tensors, self) as room:
            async with graphs.using(call.paths) as graph:
                outputs = graph.check(call.tensors, call.outputs)
                cargo = await graphs.run(graph, await arriving.all(), outputs, self)
            room.add(cargo[0], "outputs")
            self.stream.send(Ran(call.id, cargo[0]))
            for piece in pieces(cargo):
                await self.stream.drain()
                self.stream.send(Piece(call.id, piece))

    async def _warm(self, call: Warm) -> None:
        async with self._embedder.using(call.model) as model:
            self.stream.send(Embedded(call.id, model.dimensions, [], [], []))

    async def _count(self, call: Count) -> None:
        with self._embedder.room(call.texts):
            async with self._embedder.using(call.model) as model:
                tokens = await self._embedder.count(model, call.texts)
        self.stream.send(Counted(call.id, tokens))

    async def _rank(self, call: Rank) -> None:
        with self._embedder.room(call.documents, query=call.query) as room:
            async with self._embedder.using(call.model) as model:
                ranking = await self._embedder.rank(model, call.query, call.documents, room, self._turn(call))
        truncated = [at for at, pair in enumerate(ranking.pairs) if pair.truncated]
        self.stream.send(
            Ranked(call.id, ranking.scores, [len(pair.ids) for pair in ranking.pairs], truncated)
        )

    async def _embed(self, call: Embed) -> None:
        form, last = _form(call), b""
        rows: list[int] = []
        tokens: list[int] = []
        truncated: list[int] = []
        with self._embedder.room(call.texts, form, owner=self) as room:
            async with (
                self._embedder.using(call.model) as model,
                aclosing(
                    self._embedder.embed(model, call.texts, form, room, self._turn(call), query=call.query)
                ) as parts,
            ):
                async for part in parts:
                    for piece in part.pieces:
                        if last:
                            await self.stream.drain()
                            self.stream.send(Vectors(call.id, last))
                        last = piece
                    truncated += [len(rows) + at for at, text in enumerate(part.texts) if text.truncated]
                    tokens += [len(text.ids) for text in part.texts]
                    rows += part.rows
                dimensions = form.dimensions or model.dimensions
        await self.stream.drain()
        self.stream.send(Embedded(call.id, dimensions, rows, tokens, truncated, last))

    def _turn(self, call: Embed | Rank) -> Hashable:
        return (id(self), call.turn) if call.turn else None


def _form(call: Embed) -> Form:
    if call.dimensions is not None and call.dimensions < 1:
        raise InvalidInput(f"Vectors of {call.dimensions} numbers were asked for: at least 1, or None")
    return Form(call.mean_pool, call.normalize, call.dimensions or 0)


def _refusal(id: int, error: Exception) -> Refused:
    if isinstance(error, UsageError):  # of a model's files
        return Refused(id, rule_of(ModelBroken()).code, str(error))
    if isinstance(error, FunctionsError):
        return Refused(id, rule_of(error).code, error.message)
    log.error("a call failed", exc_info=error)
    failed = EngineUnavailable("The inference engine failed on this call; the server's log says why")
    return Refused(id, rule_of(failed).code, failed.message)
