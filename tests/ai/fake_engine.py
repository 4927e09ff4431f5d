"""The engine's side of the connection, with answers that can be computed by hand."""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from runtime.channel import Stream, open_stream
from runtime.door import socket_pair
from runtime.errors import ChannelClosed
from runtime.frames import (
    Cancel,
    Count,
    Counted,
    Declared,
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
from runtime.tensors import Parcel

DIMENSIONS = 4
MAXIMUM = 512

_decoder: msgspec.msgpack.Decoder[EngineCall] = msgspec.msgpack.Decoder(EngineCall)


def row(text: str, token: int = 0) -> list[float]:
    """The vector of a text (or of one of its tokens): small whole numbers, exact in float32."""
    return [float(len(text)), float(ord(text[0])), float(ord(text[-1])), float(token)]


def score(query: str, document: str) -> float:
    """Of a document: exact in float32."""
    return len(document) + len(query) / 1024


def tokens(text: str) -> int:
    return min(len(text.split()) + 2, MAXIMUM)


class FakeEngine:
    """
    Attributes:
        seen: every frame, in order of arrival.
        pieces: how many of arrays have come.
        answering: False: it takes calls and says nothing.
        refuse: answer every call with this refusal.
        declared: type of the input that every graph has.
    """

    def __init__(self) -> None:
        self.seen: list[EngineCall] = []
        self.answering = True
        self.pieces = 0
        self.declared = "float32"
        self.refuse: tuple[str, str] | None = None
        self._parcels: dict[int, Parcel] = {}
        self._changed = asyncio.Event()
        self._streams: list[Stream[EngineCall]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def connection(self) -> socket.socket:
        """The worker's end of a new connection."""
        ours, theirs = socket_pair()
        stream = await open_stream(ours, lambda: Stream(_decoder))
        self._streams.append(stream)
        self._tasks.append(asyncio.create_task(self._serve(stream)))
        return theirs

    async def until(self, condition: Callable[[FakeEngine], bool]) -> None:
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    def embeds(self) -> list[Embed]:
        return [frame for frame in self.seen if isinstance(frame, Embed)]

    def hang_up(self) -> None:
        """Die, as far as a client can tell."""
        for stream in self._streams:
            stream.abort()

    async def close(self) -> None:
        self.hang_up()
        await asyncio.gather(*self._tasks)

    def answer(self, frame: EngineCall, stream: Stream[EngineCall] | None = None) -> None:
        stream = stream or self._streams[-1]
        if isinstance(frame, Cancel):
            return
        if self.refuse is not None:
            stream.send(Refused(frame.id, *self.refuse))
        elif isinstance(frame, Warm):
            stream.send(Embedded(frame.id, DIMENSIONS, [], [], []))
        elif isinstance(frame, Rank):
            self._rank(frame, stream)
        elif isinstance(frame, Count):
            stream.send(Counted(frame.id, [tokens(text) for text in frame.texts]))
        elif isinstance(frame, Open):
            stream.send(Opened(frame.id, [Declared("x", self.declared, ["n", None])], []))
        elif isinstance(frame, Run):
            self._parcels[frame.id] = Parcel(frame.tensors)
            self._echo(frame, stream)
        elif isinstance(frame, Embed):
            self._embed(frame, stream)

    def _rank(self, frame: Rank, stream: Stream[EngineCall]) -> None:
        scores = array("f", [score(frame.query, document) for document in frame.documents])
        counts = [tokens(document) for document in frame.documents]
        cut = [index for index, count in enumerate(counts) if count == MAXIMUM]
        stream.send(Ranked(frame.id, scores.tobytes(), counts, cut))

    def _echo(self, frame: Run, stream: Stream[EngineCall]) -> None:
        """The inputs of a run, if they have all arrived."""
        parcel = self._parcels[frame.id]
        if parcel.whole:
            stream.send(Ran(frame.id, frame.tensors))
            for _, data in parcel.each():
                for start in range(0, len(data), 1000):
                    stream.send(Piece(frame.id, bytes(data[start : start + 1000])))

    def _embed(self, frame: Embed, stream: Stream[EngineCall]) -> None:
        counts = [tokens(text) for text in frame.texts]
        rows = [1] * len(counts) if frame.mean_pool else counts
        for text, count in zip(frame.texts, rows, strict=True):
            flat = array("f", [value for token in range(count) for value in row(text, token)])
            stream.send(Vectors(frame.id, flat.tobytes()))
        cut = [index for index, text in enumerate(frame.texts) if len(text.split()) + 2 > MAXIMUM]
        stream.send(Embedded(frame.id, DIMENSIONS, rows, counts, cut))

    def _arrived(self, piece: Piece, stream: Stream[EngineCall]) -> None:
        self.pieces += 1
        self._changed.set()
        if piece.id in self._parcels:
            self._parcels[piece.id].add(piece.data)
            run = next(frame for frame in self.seen if isinstance(frame, Run) and frame.id == piece.id)
            self._echo(run, stream)

    async def _serve(self, stream: Stream[EngineCall]) -> None:
        try:
            while True:
                frame = await stream.receive()
                if isinstance(frame, Piece):
                    self._arrived(frame, stream)
                    continue
                self.seen.append(frame)
                self._changed.set()
                if self.answering:
                    self.answer(frame, stream)
        except ChannelClosed:
            return


@asynccontextmanager
async def fake_engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    try:
        yield engine
    finally:
        await engine.close()
