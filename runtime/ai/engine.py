"""The way to the engine: many calls over one connection."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from array import array
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from runtime import frames
from runtime.ai.texts import parts
from runtime.channel import Stream, open_stream
from runtime.errors import (
    HTTP,
    AIError,
    ChannelClosed,
    EngineUnavailable,
    FunctionsError,
    ModelBroken,
    ModelNotFound,
    UpstreamError,
)
from runtime.tensors import Cargo, Parcel, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
A = TypeVar("A", bound=frames.Embedded | frames.Ranked | frames.Counted | frames.Opened | frames.Ran)

Question = frames.Embed | frames.Rank | frames.Count | frames.Warm | frames.Open | frames.Run
Answer = frames.Embedded | frames.Ranked | frames.Counted | frames.Opened | frames.Ran | frames.Refused

_PATIENCE = 10.0
_COMES_S = 0.5  # after which no connection comes by itself: of an engine that ended, one does sooner
_AT_ONCE = 4  # parts of one call in flight: a huge list leaves room for its neighbours
_ERRORS: dict[str, type[FunctionsError]] = {
    rule.code: kind for kind, rule in HTTP.items() if not issubclass(kind, UpstreamError)
}
_PUBLIC = {  # instead of the engine's words, which name files of the server
    ModelNotFound: "There is no model {!r}; the server's log says more",
    ModelBroken: "The model {!r} cannot be loaded; the server's log says why",
}
_NOTHING: Cargo = ([], [])
_decoder: msgspec.msgpack.Decoder[frames.EngineAnswer] = msgspec.msgpack.Decoder(frames.EngineAnswer)


class Result(msgspec.Struct, frozen=True):
    """What the engine made of some texts.

    Attributes:
        data: float32 rows, in the order of the texts; writable.
        dimensions: length of one row.
        rows: rows per text: 1 each when pooled, else the number of its tokens.
        tokens: tokens per text as run, special tokens included.
        truncated: indices of the texts that were longer than the model's maximum.
    """

    data: bytearray
    dimensions: int
    rows: list[int]
    tokens: list[int]
    truncated: list[int]


class Scores(msgspec.Struct, frozen=True):
    """How well some documents answer a query, in their order.

    Attributes:
        scores: one per document; more is better.
        tokens: tokens per pair of query and document as run, special tokens included.
        truncated: indices of the documents that were cut, or whose query was.
    """

    scores: list[float]
    tokens: list[int]
    truncated: list[int]


class EngineClient:
    """Calls the engine, and calls again when it was restarted meanwhile.

    A call that finds no engine, or loses it, waits for the next `attach`, and is sent a
    second time but never a third. Usable from any event loop of the process.

    Args:
        patience: seconds that a call waits for an engine.

    Attributes:
        on_missing: called when a call has waited for a while: somebody should `attach` another.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._line: _Line | None = None
        self._attached = asyncio.Event()
        self._loop = _running_loop()
        self._ids = itertools.count(1)
        self.on_missing: Callable[[], None] = _nobody_to_ask
        self._asking: asyncio.TimerHandle | None = None

    async def attach(self, sock: socket.socket) -> None:
        """Use this connection from now on; takes the socket over."""
        self._loop = asyncio.get_running_loop()
        line = await open_stream(sock, _Line)
        former, self._line = self._line, line
        self._attached.set()
        if former is not None:
            former.retire()

    async def embed(
        self,
        model: str,
        texts: list[str],
        *,
        mean_pool: bool = True,
        normalize: bool = True,
        dimensions: int | None = None,
        query: bool = False,
    ) -> Result:
        """Embed texts that were checked before (`texts.checked`), in their order.

        Cancelling the call takes it out of the engine's queue.

        Raises:
            EngineUnavailable: no engine within `patience`, or it went away twice.
            AIError: the engine refused, with the class that its code stands for.
        """
        turn = next(self._ids)
        calls = [
            frames.Embed(
                id=next(self._ids),
                model=model,
                texts=part,
                mean_pool=mean_pool,
                normalize=normalize,
                dimensions=dimensions,
                query=query,
                turn=turn,
            )
            for part in parts(texts)
        ]
        return _joined(await self._at_home(self._all(calls, frames.Embedded)))

    async def rank(self, model: str, query: str, documents: list[str]) -> Scores:
        """Score documents that were checked before, in their order. Raises as `embed` does."""
        turn = next(self._ids)
        calls = [
            frames.Rank(id=next(self._ids), model=model, query=query, documents=part, turn=turn)
            for part in parts(documents)
        ]
        return _scores(await self._at_home(self._all(calls, frames.Ranked)))

    async def count(self, model: str, texts: list[str]) -> list[int]:
        """Tokens of texts that were checked before, special ones included. Raises as `embed` does."""
        calls = [frames.Count(next(self._ids), model, part) for part in parts(texts)]
        counted = await self._at_home(self._all(calls, frames.Counted))
        return [tokens for answer, _ in counted for tokens in answer.tokens]

    async def warm(self, model: str) -> None:
        """Have a model loaded. Raises as `embed` does."""
        await self._at_home(self._ask(frames.Warm(next(self._ids), model), frames.Embedded))

    async def open(self, paths: list[str]) -> frames.Opened:
        """Have a graph loaded: the first of these files that exists. Raises as `embed` does."""
        question = frames.Open(next(self._ids), paths)
        return (await self._at_home(self._ask(question, frames.Opened)))[0]

    async def run(self, paths: list[str], inputs: Cargo, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run a graph on some arrays. Cancelling the call ends the run. Raises as `embed` does."""
        question = frames.Run(id=next(self._ids), paths=paths, tensors=inputs[0], outputs=list(outputs))
        _, parcel = await self._at_home(self._ask(question, frames.Ran, inputs))
        assert isinstance(parcel, Parcel)
        return parcel.arrays()

    async def _at_home(self, work: Coroutine[Any, Any, T]) -> T:
        """Run where the connection lives: a plain `def` handler may have a loop of its own."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _all(self, calls: Sequence[Question], kind: type[A]) -> list[tuple[A, Any]]:
        if len(calls) == 1:
            return [await self._ask(calls[0], kind)]
        turns = asyncio.Semaphore(_AT_ONCE)

        async def ask(call: Question) -> tuple[A, Any]:
            async with turns:
                return await self._ask(call, kind)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(call)) for call in calls]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, call: Question, kind: type[A], cargo: Cargo = _NOTHING) -> tuple[A, Any]:
        for _ in range(2):
            line = await self._connected()
            try:
                answer, data = await line.ask(call, cargo)
            except ChannelClosed:
                continue
            if isinstance(answer, frames.Refused):
                raise _error_of(answer, call)
            if not isinstance(answer, kind):
                raise EngineUnavailable(f"The inference engine answered with {type(answer).__name__}")
            return answer, data
        raise EngineUnavailable("The inference engine stopped twice during this call (please check the logs)")

    async def _connected(self) -> _Line:
        try:
            async with asyncio.timeout(self._patience):
                while self._line is None or self._line.lost:
                    self._attached.clear()
                    self._ask_soon()
                    await self._attached.wait()
                return self._line
        except TimeoutError:
            raise EngineUnavailable(
                f"The inference engine has not been running for {self._patience:g} s (please check the logs)"
            ) from None

    def _ask_soon(self) -> None:
        if self._asking is None:  # once for all calls that wait
            self._asking = asyncio.get_running_loop().call_later(_COMES_S, self._ask_for_another)

    def _ask_for_another(self) -> None:
        self._asking = None
        if self._line is None or self._line.lost:
            self.on_missing()


def _nobody_to_ask() -> None:
    pass


def _error_of(refused: frames.Refused, call: Question) -> FunctionsError:
    kind = _ERRORS.get(refused.code, AIError)
    error = kind(refused.message)
    if kind in _PUBLIC:
        name = call.paths[0] if isinstance(call, frames.Open | frames.Run) else call.model
        error.public = _PUBLIC[kind].format(os.path.basename(name) if os.path.isabs(name) else name)
    return error


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Call:
    """One question on its way. The answer is None when the connection was lost."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.parcel: Parcel | None = None
        self._ran: frames.Ran | None = None
        self.answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()

    def take(self, frame: frames.EngineAnswer) -> None:
        """A frame of the answer; the last one settles it."""
        if isinstance(frame, frames.Vectors):
            self.data += frame.data
        elif isinstance(frame, frames.Ran):
            self._ran, self.parcel = frame, Parcel(frame.tensors)
            self._look(self.parcel)
        elif isinstance(frame, frames.Piece):
            if self.parcel is not None:
                self.parcel.add(frame.data)
                self._look(self.parcel)
        else:
            if isinstance(frame, frames.Embedded):
                self.data += frame.data
            self.settle(frame)

    def _look(self, parcel: Parcel) -> None:
        if parcel.whole:
            self.settle(self._ran)

    def settle(self, answer: Answer | None) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class _Line(Stream[frames.EngineAnswer]):
    """One connection to one engine process."""

    def __init__(self) -> None:
        super().__init__(_decoder)
        self._calls: dict[int, _Call] = {}
        self._turn = asyncio.Lock()
        # One call's arrays at a time: the engine reads no more calls than it runs, and these
        # must not all be calls whose arrays it has yet to read.
        self._sending = asyncio.Lock()
        self._retired = False

    def retire(self) -> None:
        """Close as soon as nobody waits for an answer."""
        self._retired = True
        if not self._calls:
            self.close()

    async def ask(self, frame: Question, cargo: Cargo = _NOTHING) -> tuple[Answer, Any]:
        """The answer, and what came along with it: bytes, or a parcel.

        Raises:
            ChannelClosed: the connection was lost before.
        """
        call = self._calls[frame.id] = _Call()
        sent = False
        try:
            async with self._sending if cargo[0] else nullcontext():
                await self._send(frame)
                sent = True
                await self._send_all(call, frame.id, pieces(cargo))
            answer = await call.answer
        except asyncio.CancelledError:
            if sent:
                self.send(frames.Cancel(frame.id))
            raise
        finally:
            del self._calls[frame.id]
            if self._retired and not self._calls:
                self.close()
        if answer is None:
            raise ChannelClosed
        return answer, call.data if call.parcel is None else call.parcel

    async def _send_all(self, call: _Call, id: int, data: Iterator[bytes]) -> None:
        for piece in data:
            if call.answer.done():  # refused: the rest is of no use
                return
            await self._send(frames.Piece(id, piece))

    async def _send(self, frame: Question | frames.Piece) -> None:
        async with self._turn:  # one at a time, so that `drain` holds back all who wait
            await self.drain()
            self.send(frame)

    def arrived(self, frame: frames.EngineAnswer, size: int) -> None:
        call = self._calls.get(frame.id)
        if call is not None:  # else cancelled meanwhile
            call.take(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for call in self._calls.values():
            call.settle(None)


def _joined(answers: list[tuple[frames.Embedded, Any]]) -> Result:
    if len(answers) == 1:
        ((answer, data),) = answers
        return Result(data, answer.dimensions, answer.rows, answer.tokens, answer.truncated)
    rows: list[int] = []
    tokens: list[int] = []
    truncated: list[int] = []
    for answer, _ in answers:
        truncated += [len(rows) + index for index in answer.truncated]
        rows += answer.rows
        tokens += answer.tokens
    dimensions = answers[0][0].dimensions if answers else 0
    return Result(bytearray().join(data for _, data in answers), dimensions, rows, tokens, truncated)


def _scores(answers: list[tuple[frames.Ranked, Any]]) -> Scores:
    scores = array("f")
    tokens: list[int] = []
    truncated: list[int] = []
    for answer, _ in answers:
        truncated += [len(tokens) + index for index in answer.truncated]
        tokens += answer.tokens
        scores.frombytes(answer.data)
    return Scores(scores.tolist(), tokens, truncated)
