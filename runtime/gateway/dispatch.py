"""From a request to a worker and back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from runtime import frames
from runtime.errors import (
    BodyTimeout,
    ChannelClosed,
    FunctionsError,
    HostError,
    IdleTimeout,
    InvalidResponse,
    Overloaded,
    ShuttingDown,
    WorkerError,
    WorkerLimit,
)
from runtime.gateway.deadlines import Clocks, Deadlines
from runtime.gateway.deployment import Deployment
from runtime.gateway.exchange import Exchange
from runtime.gateway.feed import ClientGone, Feed
from runtime.gateway.outgoing import failure
from runtime.gateway.pool import Pool
from runtime.gateway.responsestream import ResponseStream
from runtime.gateway.worker import Worker
from runtime.project.settings import Function

_END_S = 1.0  # how long a worker may take to end a response that has no body


class Broken(Exception):
    """The response cannot be completed: the connection must not end as if it were.

    Its message is for the log; empty: the worker has logged why.
    """


class NotAccepted(Exception):
    """The worker went before it began with the request, or with one that may be repeated."""


class TakenBack(NotAccepted):
    """The worker did not begin with the request, since something blocks it: another has room for it."""


def not_accepted(stream: ResponseStream) -> NotAccepted:
    """Why the worker has not begun with what was sent on this connection."""
    return TakenBack() if stream.withdrawn and not stream.accepted else NotAccepted()


def take(deployment: Deployment) -> tuple[Pool, Worker] | None:
    """A slot, if there is one that nobody waits for."""
    pool = deployment.pool
    worker = pool.take() if pool is not None else None
    return None if pool is None or worker is None else (pool, worker)


async def lease(deployment: Deployment, since: float | None = None) -> tuple[Pool, Worker]:
    """A slot of whichever generation serves when it is the request's turn.

    Args:
        since: when the request came, if it had a slot already and comes back for another.

    Raises:
        HostError: overloaded, failed to boot, or shutting down.
    """
    while True:
        pool = deployment.pool or await deployment.first_pool()
        try:
            return pool, await pool.acquire(since)
        except ShuttingDown:
            if deployment.pool is pool:
                raise


async def connection(worker: Worker) -> ResponseStream:
    """A connection to a leased worker: a kept one, or a new one.

    Raises:
        Overloaded: this process has no descriptor left for one; the worker is not to blame.
    """
    while worker.idle:
        stream = worker.idle.pop()
        if not stream.closed:
            return stream
    try:
        return await worker.open()
    except OSError as error:
        raise Overloaded from error


async def dispatch(
    exchange: Exchange,
    function: Function,
    deployment: Deployment,
    head: frames.Head,
    clocks: Clocks | None = None,
) -> None:
    """Have a worker answer the request.

    Args:
        clocks: time limits of this request alone; None: those of the function.

    A worker that dies before it accepts the request costs nothing: another gets it, once.
    With `retry = "idempotent"` the same holds after accepting, until the response begins.
    What a blocked worker has not begun with is given to others as often as that happens.

    Raises:
        FunctionsError: to be answered by the host, if nothing was sent yet.
        Broken: the response had begun.
        ClientGone: there is nobody to answer.
    """
    feed = Feed(exchange.scope, exchange.receive, int(function.limits.max_body_mb * 1_000_000))
    keeps = function.retry == "idempotent"
    await feed.prefetch()
    again, since = False, None
    while True:
        leased = take(deployment)
        if leased is None:
            with feed.waiting():
                leased = await lease(deployment, since)
        pool, worker = leased
        exchange.worker = worker.pid
        relay = Relay(exchange, feed, clocks or pool.clocks, keeps_body=keeps)
        try:
            stream = await connection(worker)
            head.generation = pool.generation.name
            await relay.run(stream, head)
            return
        except TakenBack:
            exchange.series.retries += 1
        except NotAccepted:
            if not relay.begun or worker.has_hung_up():
                pool.discard(worker)
            if again:
                raise WorkerError from None
            again = True
            exchange.series.retries += 1
        finally:
            pool.release(worker, relay.reusable)
        since = exchange.began


class Relay:
    """One request over one connection to a worker.

    Attributes:
        begun: the worker has begun with it.
        reusable: the connection, once it has carried the whole of the request.
    """

    __slots__ = (
        "_exchange", "_feed", "_idle", "_keeps_body", "_late", "_stream", "_wall", "begun", "reusable",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, feed: Feed, clocks: Clocks, *, keeps_body: bool) -> None:
        self._exchange, self._feed = exchange, feed
        self._wall, self._idle = clocks.wall, clocks.idle
        self._keeps_body = keeps_body
        self._late: FunctionsError | None = None
        self._stream: ResponseStream | None = None
        self.begun = False
        self.reusable: ResponseStream | None = None

    async def run(self, stream: ResponseStream, head: frames.Head) -> None:
        """Send the request and relay what comes back.

        Raises:
            NotAccepted: the worker went before it began.
        """
        self._stream = stream
        head.deadline, head.limit_s = self._wall.add(self), self._wall.seconds
        stream.begin(head, self._on_accepted)
        stop_feeding = self._feed.begin(head, stream, self._on_piece)
        try:
            await self._until_start(stream)
            is_whole = await self._rest(stream)
            if is_whole and not self._feed.more:
                self.reusable = stream
        except ChannelClosed:
            raise self._reason(stream) from None
        finally:
            self.begun = stream.accepted
            self._exchange.accepted |= self.begun  # by the worker of this try, or of one before
            self._wall.remove(self)
            stop_feeding()
            if self.reusable is None:
                stream.abort()
            stream.end()

    def expired(self, limit: Deadlines) -> None:
        """A time limit has passed: break the work off, and with it a response that has begun."""
        self._late = self._lateness(limit)
        self._exchange.blame(self._late)
        if self._stream is not None:
            self._stream.abort()
        self._feed.give_up()

    def _lateness(self, limit: Deadlines) -> HostError:
        """Whose fault it is, and which limit it was."""
        is_whole = limit is self._wall
        key, seconds = "timeout_s" if is_whole else "idle_s", f"{limit.seconds:g} s"
        kind: type[HostError] = IdleTimeout
        if self._feed.starved and is_whole:
            kind, text = BodyTimeout, "The request's body did not arrive within"
        elif self._feed.starved:
            kind, text = BodyTimeout, "Nothing more of the request's body arrived for"
        elif is_whole:
            kind, text = WorkerLimit, "The function did not finish within"
        elif self._exchange.status:
            text = "The function sent nothing more for"
        else:
            text = "The function sent no response within"
        return kind(f"{text} {seconds} ({key})", limit=key)

    def _on_piece(self) -> None:
        """The client goes on with its body: only from here on is the function silent."""
        self._idle.touch(self)

    async def _next(self, stream: ResponseStream) -> frames.ResponseFrame:
        """What the worker says next; only the time that it lets us wait counts as its silence."""
        self._idle.add(self)
        try:
            return await stream.receive()
        finally:
            self._idle.remove(self)

    async def _until_start(self, stream: ResponseStream) -> None:
        frame = await self._next(stream)
        match frame:
            case frames.Start(status, headers):
                self._feed.accepted()
                await self._exchange.start(status, headers)
            case frames.Failure():
                self.reusable = None if self._feed.more else stream
                raise failure(frame)
            case _:  # what has no place here
                raise WorkerError

    async def _rest(self, stream: ResponseStream) -> bool:
        """What follows the start of the response; whether the worker has said all of it."""
        if self._exchange.scope["method"] == "HEAD":
            await self._exchange.body(b"", False)  # whatever the worker goes on to say
            return await _ends(stream)
        while True:
            is_here = stream.newest is not None
            frame = await (stream.receive() if is_here else self._next(stream))
            if isinstance(frame, frames.Failure):
                self._exchange.blame(failure(frame))
            if not isinstance(frame, frames.Body):
                raise Broken  # the handler failed after its response had begun
            try:
                await self._exchange.body(frame.data, frame.more)
            except RuntimeError as error:  # the server counts
                self._exchange.blame(InvalidResponse())
                wrong = "longer" if "longer" in str(error) else "shorter"
                raise Broken(f"the response's body is {wrong} than its content-length") from None
            if not frame.more:
                return True

    def _on_accepted(self) -> None:
        self._feed.accepted(keep=self._keeps_body)

    def _reason(self, stream: ResponseStream) -> Exception:
        """Why the connection to the worker closed."""
        reason: FunctionsError | ClientGone | None = self._late or self._feed.failure
        if isinstance(reason, ClientGone):
            return reason
        if self._exchange.status:
            cause = reason or stream.sentence
            if cause is None:
                return Broken()
            self._exchange.blame(cause)
            return Broken(f"the response broke off: {cause.message}")
        if reason is not None:
            return reason
        if stream.accepted and isinstance(stream.sentence, WorkerLimit):
            return stream.sentence
        if (self._keeps_body or not stream.accepted) and self._feed.replayable:
            return not_accepted(stream)
        return stream.sentence or WorkerError()


async def _ends(stream: ResponseStream) -> bool:
    """The worker ends the response to a HEAD with its start, as it should."""
    with suppress(TimeoutError, ChannelClosed):
        async with asyncio.timeout(_END_S):
            frame = await stream.receive()
            return isinstance(frame, frames.Body) and not frame.more
    return False
