"""A connection from the gateway: it carries one request after another to the function."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any, Protocol

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Send
from starlette.websockets import WebSocketDisconnect

from runtime import frames
from runtime.channel import LOOK_S, Stream, has_hung_up
from runtime.context import Call, current
from runtime.errors import ChannelClosed, FunctionsError, rule_of
from runtime.marks import Marks
from runtime.worker import logs
from runtime.worker.exchange import HttpExchange, SocketExchange, scope_of

_decoder = msgspec.msgpack.Decoder(frames.RequestFrame)
_UNEXPECTED = frames.Failure("WORKER_ERROR", "Function exited due to an error (please check the logs)")
_LEFT = (ChannelClosed, ClientDisconnect, OSError)


def _is_cancelled(task: Any, error: BaseException) -> bool:
    """Whether we cancelled the handler; it may also have waited for something that was cancelled."""
    return isinstance(error, asyncio.CancelledError) and task.cancelling() > 0


class Host(Protocol):
    """The worker, as a connection sees it."""

    application: ASGIApp
    function: str
    leaving: bool

    def began(self) -> None: ...

    def ended(self) -> None: ...

    def keep(self, call: Call, awaitable: Any) -> asyncio.Task[Any]: ...

    def explain(self, error: BaseException) -> str: ...


class Link(Stream[frames.RequestFrame]):
    """Serves the requests that arrive on one connection, one at a time.

    Args:
        slot: of this connection, in `marks`.

    Work that goes on after its response (a background task of the framework) does not
    hold the next request up; the connection's end cancels only a request in flight.
    """

    def __init__(self, host: Host, marks: Marks, slot: int) -> None:
        super().__init__(_decoder)
        self._host, self._marks, self._slot = host, marks, slot
        self._task: asyncio.Task[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        self.on_lost = self._cancel

    def arrived(self, frame: frames.RequestFrame, size: int) -> None:
        if isinstance(frame, frames.Head):
            self._task = self._loop.create_task(self._serve(frame), context=Context())
        elif self._task is not None:  # else it is of a body whose request is answered
            super().arrived(frame, size)
            if self._paused and self._look is None:
                self._look = self._loop.call_later(LOOK_S, self._look_for_the_end)

    def _look_for_the_end(self) -> None:
        """While nothing is read, the event loop does not notice that the gateway closed."""
        self._look = None
        if not self._paused or self.closed:
            return
        if has_hung_up(self._fd):
            self.abort()
        else:
            self._look = self._loop.call_later(LOOK_S, self._look_for_the_end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _serve(self, head: frames.Head) -> None:
        host = self._host
        if host.leaving:
            self.abort()  # not accepted: the gateway gives it to the next worker
            return
        task = asyncio.current_task()
        call = Call(head.request_id, host.function, head.deadline, lambda work: host.keep(call, work))
        current.set(call)
        exchange = HttpExchange(self, head) if head.kind == "http" else SocketExchange(self)
        host.began()
        try:
            self._marks.set(self._slot)
            self.send_soon(frames.Accepted())
            await host.application(scope_of(head), exchange.receive, self._finishing(exchange, task))
            if not exchange.finished:
                self._incomplete(exchange)
        except BaseException as error:  # also sys.exit: it must hurt this request alone
            if not _is_cancelled(task, error):
                self._failed(error, exchange)
            elif not exchange.finished:
                self.abort()
        finally:
            self._let_go(task)
            host.ended()
            if isinstance(exchange, SocketExchange):
                self.close()  # it has carried its one WebSocket

    def _finishing(self, exchange: HttpExchange | SocketExchange, task: Any) -> Send:
        """`send`, which lets go of the connection once the response is complete."""

        async def send(message: Any) -> None:
            try:
                await exchange.send(message)
            finally:
                if exchange.finished:
                    self._let_go(task)

        return send

    def _let_go(self, task: Any) -> None:
        """The request that `task` serves is answered: what the handler did not read is for nobody."""
        if self._task is task:
            self._task = None
            self.forget()

    def _incomplete(self, exchange: HttpExchange | SocketExchange) -> None:
        """The application returned without finishing its response."""
        if isinstance(exchange, SocketExchange):
            self.send(frames.SocketClose(1000, ""))
        else:
            logs.emit("error", "the application returned before its response was complete")
            self.send(_UNEXPECTED)

    def _failed(self, error: BaseException, exchange: HttpExchange | SocketExchange) -> None:
        unwanted = self.lost or (isinstance(exchange, HttpExchange) and exchange.cut)
        if isinstance(error, WebSocketDisconnect) or (unwanted and isinstance(error, _LEFT)):
            return  # the client left, or has all that it asked for: nothing went wrong here
        if isinstance(error, FunctionsError) and not isinstance(error, ChannelClosed):
            logs.emit("warning", f"{type(error).__name__}: {error.message}")
            failure = frames.Failure(rule_of(error).code, error.message)
        else:
            logs.emit("error", self._host.explain(error))
            failure = _UNEXPECTED
        if not exchange.finished:
            self.send(failure)
