"""The way to the engine: many calls over one connection."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec

from runtime import frames
from runtime.ai.texts import parts
from runtime.channel import Stream, open_stream
from runtime.errors import HTTP, AIError, ChannelClosed, EngineUnavailable, FunctionsError, UpstreamError

T = TypeVar("T")

_PATIENCE = 10.0
_AT_ONCE = 4  # parts of one call in flight: a huge list leaves room for its neighbours
_ERRORS: dict[str, type[FunctionsError]] = {
    rule.code: kind for kind, rule in HTTP.items() if not issubclass(kind, UpstreamError)
}
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


class EngineClient:
    """Calls the engine, and calls again when it was restarted meanwhile.

    A call that finds no engine, or loses it, waits for the next `attach`, and is sent a
    second time but never a third. Usable from any event loop of the process.

    Args:
        patience: seconds that a call waits for an engine.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._line: _Line | None = None
        self._attached = asyncio.Event()
        self._loop = _running_loop()
        self._ids = itertools.count(1)

    async def attach(self, sock: socket.socket) -> None:
        """Use this connection from now on; takes the socket over."""
        self._loop = asyncio.get_running_loop()
        line = await open_stream(sock, _Line)
        former, self._line = self._line, line
        self._attached.set()
        if former is not None:
            former.retire()

    async def embed(
        self, model: str, texts: list[str], *, mean_pool: bool = True, normalize: bool = True
    ) -> Result:
        """Embed texts that were checked before (`texts.checked`), in their order.

        Cancelling the call takes it out of the engine's queue.

        Raises:
            EngineUnavailable: no engine within `patience`, or it went away twice.
            AIError: the engine refused, with the class that its code stands for.
        """
        calls = [
            frames.Embed(
                id=next(self._ids), model=model, texts=part, mean_pool=mean_pool, normalize=normalize
            )
            for part in parts(texts)
        ]
        return await self._at_home(self._all(calls))

    async def warm(self, model: str) -> None:
        """Have a model loaded. Raises as `embed` does."""
        await self._at_home(self._ask(frames.Warm(next(self._ids), model)))

    async def _at_home(self, work: Coroutine[Any, Any, T]) -> T:
        """Run where the connection lives: a plain `def` handler may have a loop of its own."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _all(self, calls: list[frames.Embed]) -> Result:
        if len(calls) == 1:
            return await self._ask(calls[0])
        turns = asyncio.Semaphore(_AT_ONCE)

        async def ask(call: frames.Embed) -> Result:
            async with turns:
                return await self._ask(call)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(call)) for call in calls]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return _joined([task.result() for task in tasks])

    async def _ask(self, call: frames.Embed | frames.Warm) -> Result:
        for _ in range(2):
            line = await self._connected()
            try:
                return await line.ask(call)
            except ChannelClosed:
                continue
        raise EngineUnavailable("The inference engine stopped twice during this call (please check the logs)")

    async def _connected(self) -> _Line:
        try:
            async with asyncio.timeout(self._patience):
                while self._line is None or self._line.lost:
                    self._attached.clear()
                    await self._attached.wait()
                return self._line
        except TimeoutError:
            raise EngineUnavailable(
                f"The inference engine has not been running for {self._patience:g} s (please check the logs)"
            ) from None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Call:
    """One question on its way. The answer is None when the connection was lost."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.answer: asyncio.Future[frames.Embedded | frames.Refused | None]
        self.answer = asyncio.get_running_loop().create_future()

    def settle(self, answer: frames.Embedded | frames.Refused | None) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class _Line(Stream[frames.EngineAnswer]):
    """One connection to one engine process."""

    def __init__(self) -> None:
        super().__init__(_decoder)
        self._calls: dict[int, _Call] = {}
        self._turn = asyncio.Lock()
        self._retired = False

    def retire(self) -> None:
        """Close as soon as nobody waits for an answer."""
        self._retired = True
        if not self._calls:
            self.close()

    async def ask(self, frame: frames.Embed | frames.Warm) -> Result:
        call = self._calls[frame.id] = _Call()
        sent = False
        try:
            async with self._turn:  # one at a time, so that `drain` holds back all who wait
                await self.drain()
                self.send(frame)
                sent = True
            answer = await call.answer
        except asyncio.CancelledError:
            if sent:
                self.send(frames.Cancel(frame.id))
            raise
        finally:
            del self._calls[frame.id]
            if self._retired and not self._calls:
                self.close()
        return _result(answer, call.data)

    def arrived(self, frame: frames.EngineAnswer, size: int) -> None:
        call = self._calls.get(frame.id)
        if call is None:
            return  # cancelled meanwhile
        if isinstance(frame, frames.Vectors):
            call.data += frame.data
        else:
            call.settle(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for call in self._calls.values():
            call.settle(None)


def _result(answer: frames.Embedded | frames.Refused | None, data: bytearray) -> Result:
    if answer is None:
        raise ChannelClosed
    if isinstance(answer, frames.Refused):
        raise _ERRORS.get(answer.code, AIError)(answer.message)
    return Result(data, answer.dimensions, answer.rows, answer.tokens, answer.truncated)


def _joined(results: list[Result]) -> Result:
    rows: list[int] = []
    tokens: list[int] = []
    truncated: list[int] = []
    for result in results:
        truncated += [len(rows) + index for index in result.truncated]
        rows += result.rows
        tokens += result.tokens
    dimensions = results[0].dimensions if results else 0
    return Result(bytearray().join(result.data for result in results), dimensions, rows, tokens, truncated)
