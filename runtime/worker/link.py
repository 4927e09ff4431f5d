"""A connection from the gateway: it carries one request after another to the function."""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from typing import Any, Protocol

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Send
from starlette.websockets import WebSocketDisconnect

from runtime import frames
from runtime.channel import LOOK_S, Stream, has_hung_up
from runtime.context import Call, current
from runtime.errors import ChannelClosed, FunctionsError, WorkerLimit, cpu_exceeded, rule_of
from runtime.worker import logs
from runtime.worker.accounting import Account, Meter
from runtime.worker.exchange import HttpExchange, SocketExchange, scope_of
from runtime.worker.lingering import SOON_S

_decoder = msgspec.msgpack.Decoder(frames.RequestFrame)
_UNEXPECTED = frames.Failure("WORKER_ERROR", "Function exited due to an error (please check the logs)")
_LEFT = (ChannelClosed, ClientDisconnect, OSError)


def _is_cancelled(task: Any, error: BaseException) -> bool:
    """Whether we cancelled the handler; it may also have waited for something that was cancelled."""
    return isinstance(error, asyncio.CancelledError) and task.cancelling() > 0


def _failure(error: WorkerLimit) -> frames.Failure:
    return frames.Failure(rule_of(error).code, error.message, error.limit)


class Host(Protocol):
    """The worker, as a connection sees it."""

    application: ASGIApp
    function: str
    leaving: bool
    cpu_ms: int

    def began(self) -> None: ...

    def ended(self) -> None: ...

    def keep(self, call: Call, awaitable: Any) -> asyncio.Task[Any]: ...

    def linger(self, call: Call, task: asyncio.Task[Any]) -> None: ...

    def explain(self, error: BaseException) -> str: ...

    def limit_behind(self, error: BaseException) -> WorkerLimit | None: ...


def _call_of(head: frames.Head, host: Host) -> Call:
    deadline = head.deadline if head.kind == "http" else 0.0
    call = Call(head.request_id, host.function, deadline, host.keep)
    call.limit_s = head.limit_s
    call.linger = host.linger
    return call


class Link(Stream[frames.RequestFrame]):
    """Serves the requests that arrive on one connection, one at a time.

    Args:
        meter: charges what its requests take of the processor.
        slot: of this connection, in the ledger.

    Work that goes on after its response (a background task of the framework) does not
    hold the next request up; the connection's end cancels only a request in flight.
    """

    def __init__(self, host: Host, meter: Meter, slot: int) -> None:
        super().__init__(_decoder)
        self._host, self._meter, self._slot = host, meter, slot
        self._task: asyncio.Task[None] | None = None
        self._call: Call | None = None
        self._look: asyncio.TimerHandle | None = None
        self.on_lost = self._cancel

    def arrived(self, frame: frames.RequestFrame, size: int) -> None:
        if isinstance(frame, frames.Head):
            self._begin(frame)
        elif self._task is not None:  # else it is of a body whose request is answered
            if isinstance(frame, frames.SocketMessage) and self._call is not None:
                self._call.account.cost = 0  # a WebSocket may stay open for ever
            super().arrived(frame, size)
            if self._paused and self._look is None:
                self._look = self._loop.call_later(LOOK_S, self._look_for_the_end)

    def _begin(self, head: frames.Head) -> None:
        """Serve a request in a context of its own, which says whose it is from the first step on."""
        host, context = self._host, Context()
        call = _call_of(head, host)
        limit = host.cpu_ms if head.cpu_ms is None else head.cpu_ms
        call.account = self._meter.account(call.id, self._slot, limit)
        context.run(current.set, call)
        self._task = self._meter.task(self._loop, self._serve(head, call), context=context)

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
            if self._call is not None:
                self._call.cancelled = True
                self._loop.call_later(SOON_S, self._host.linger, self._call, self._task)

    async def _serve(self, head: frames.Head, call: Call) -> None:
        host, account = self._host, call.account
        if host.leaving or self.lost or not self._meter.ledger.begin(self._slot):
            self.abort()  # not accepted: the gateway gives it to the next worker, or has done so
            return
        task = asyncio.current_task()
        self._call = call
        exchange = HttpExchange(self, head) if head.kind == "http" else SocketExchange(self)
        account.stop = partial(self._stop, call, exchange, task)
        host.began()
        try:
            if head.more and not self._has_last_piece():
                self.send_soon(frames.Accepted())
            await host.application(scope_of(head), exchange.receive, self._finishing(exchange, account, task))
            if not exchange.finished:
                self._incomplete(exchange)
        except BaseException as error:  # also sys.exit: it must hurt this request alone
            if account.exceeded:
                self._tell_where(error)
            elif not _is_cancelled(task, error):
                self._failed(error, exchange)
            elif not exchange.finished:
                self.abort()
        finally:
            self._let_go(account, task)
            account.stop = None
            logs.finish()
            host.ended()
            if isinstance(exchange, SocketExchange):
                self.close()  # it has carried its one WebSocket

    def _has_last_piece(self) -> bool:
        """The whole body is here: the gateway waits for nothing but the answer."""
        piece = self.newest
        return isinstance(piece, frames.Body) and not piece.more

    def _stop(self, call: Call, exchange: HttpExchange | SocketExchange, task: Any) -> None:
        """The request took more of the processor than it may: it is answered, and its work is cancelled."""
        if not exchange.finished and not self.lost:
            error = cpu_exceeded(call.account.limit // 1_000_000)
            exchange.fail(_failure(error))
            self._let_go(call.account, task)
        call.cancelled = True
        task.cancel()
        self._loop.call_later(SOON_S, self._host.linger, call, task)

    def _tell_where(self, error: BaseException) -> None:
        """Where the handler was when it was cancelled, if that was in its own code."""
        text = self._host.explain(error).rstrip()
        if "\n" in text:
            logs.emit("error", text)

    def _finishing(self, exchange: HttpExchange | SocketExchange, account: Account, task: Any) -> Send:
        """`send`, which lets go of the connection once the response is complete."""

        async def send(message: Any) -> None:
            try:
                await exchange.send(message)
            finally:
                if exchange.finished:
                    self._let_go(account, task)

        return send

    def _let_go(self, account: Account, task: Any) -> None:
        """The request that `task` serves is answered: what the handler did not read is for nobody."""
        if self._task is task:
            self._task = None
            self._meter.release(account)
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
            failure = frames.Failure(rule_of(error).code, error.public)
        else:
            logs.emit("error", self._host.explain(error))
            limit = self._host.limit_behind(error)
            failure = _UNEXPECTED if limit is None else _failure(limit)
        if not exchange.finished:
            self.send(failure)
