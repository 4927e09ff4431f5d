"""From a request to a worker and back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from runtime import frames
from runtime.errors import (
    ChannelClosed,
    FunctionsError,
    IdleTimeout,
    InvalidResponse,
    Overloaded,
    ShuttingDown,
    WorkerError,
    rule_of,
)
from runtime.gateway.deadlines import Deadlines
from runtime.gateway.deployment import Deployment
from runtime.gateway.exchange import Exchange
from runtime.gateway.feed import ClientGone, Feed
from runtime.gateway.outgoing import failure
from runtime.gateway.pool import Pool
from runtime.gateway.worker import ResponseStream, Worker
from runtime.project.settings import Function

_END_S = 1.0  # how long a worker may take to end a response that has no body


class Broken(Exception):
    """The response cannot be completed: the connection must not end as if it were.

    Its message is for the log; empty: the worker has logged why.
    """


class NotAccepted(Exception):
    """The worker went before it began with the request, or with one that may be repeated."""


def take(deployment: Deployment) -> tuple[Pool, Worker] | None:
    """A slot, if there is one that nobody waits for."""
    pool = deployment.pool
    worker = pool.take() if pool is not None else None
    return None if pool is None or worker is None else (pool, worker)


async def lease(deployment: Deployment) -> tuple[Pool, Worker]:
    """A slot of whichever generation serves when it is the request's turn.

    Raises:
        HostError: overloaded, failed to boot, or shutting down.
    """
    while True:
        pool = deployment.pool or await deployment.first_pool()
        try:
            return pool, await pool.acquire()
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


async def dispatch(exchange: Exchange, function: Function, deployment: Deployment, head: frames.Head) -> None:
    """Have a worker answer the request.

    A worker that dies before it accepts the request costs nothing: another gets it, once.
    With `retry = "idempotent"` the same holds after accepting, until the response begins.

    Raises:
        FunctionsError: to be answered by the host, if nothing was sent yet.
        Broken: the response had begun.
        ClientGone: there is nobody to answer.
    """
    feed = Feed(exchange.scope, exchange.receive, int(function.limits.max_body_mb * 1_000_000))
    keeps = function.retry == "idempotent"
    await feed.prefetch()
    for last in (False, True):
        leased = take(deployment)
        if leased is None:
            with feed.waiting():
                leased = await lease(deployment)
        pool, worker = leased
        relay = Relay(exchange, feed, pool.idle_limit, keeps_body=keeps)
        try:
            stream = await connection(worker)
            head.generation = pool.generation.name
            await relay.run(stream, head)
            return
        except NotAccepted:
            if not exchange.accepted or worker.has_hung_up():
                pool.discard(worker)
            if last:
                raise WorkerError from None
        finally:
            pool.release(worker, relay.reusable)
    raise AssertionError


class Relay:
    """One request over one connection to a worker.

    Attributes:
        reusable: the connection, once it has carried the whole of the request.
    """

    def __init__(self, exchange: Exchange, feed: Feed, idle_limit: Deadlines, *, keeps_body: bool) -> None:
        self._exchange, self._feed, self._idle_limit = exchange, feed, idle_limit
        self._keeps_body = keeps_body
        self._idle: IdleTimeout | None = None
        self.reusable: ResponseStream | None = None

    async def run(self, stream: ResponseStream, head: frames.Head) -> None:
        """Send the request and relay what comes back.

        Raises:
            NotAccepted: the worker went before it began.
        """
        stream.begin(self._on_accepted)
        stop_feeding = self._feed.begin(head, stream)
        try:
            await self._until_start(stream)
            is_whole = await self._rest(stream)
            if is_whole and not self._feed.more:
                self.reusable = stream
        except ChannelClosed:
            raise self._reason(stream) from None
        finally:
            stop_feeding()
            if self.reusable is None:
                stream.abort()
            stream.end()

    async def _until_start(self, stream: ResponseStream) -> None:
        def expire() -> None:
            limit = self._idle_limit.seconds
            self._idle = IdleTimeout(f"The function sent no response within {limit:g} s (idle_s)")
            stream.abort()

        self._idle_limit.add(expire)
        try:
            frame = await stream.receive()
        finally:
            self._idle_limit.remove(expire)
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
            frame = await stream.receive()
            if not isinstance(frame, frames.Body):
                raise Broken  # the handler failed after its response had begun
            try:
                await self._exchange.body(frame.data, frame.more)
            except RuntimeError as error:  # the server counts
                self._exchange.code = rule_of(InvalidResponse()).code
                wrong = "longer" if "longer" in str(error) else "shorter"
                raise Broken(f"the response's body is {wrong} than its content-length") from None
            if not frame.more:
                return True

    def _on_accepted(self) -> None:
        self._exchange.accepted = True
        self._feed.accepted(keep=self._keeps_body)

    def _reason(self, stream: ResponseStream) -> Exception:
        """Why the connection to the worker closed."""
        reason: FunctionsError | ClientGone | None = self._idle or self._feed.failure
        if isinstance(reason, ClientGone):
            return reason
        if self._exchange.status:
            return Broken()
        if reason is not None:
            return reason
        self._exchange.accepted = stream.accepted
        if not stream.accepted or (self._keeps_body and self._feed.replayable):
            return NotAccepted()
        return WorkerError()


async def _ends(stream: ResponseStream) -> bool:
    """The worker ends the response to a HEAD with its start, as it should."""
    with suppress(TimeoutError, ChannelClosed):
        async with asyncio.timeout(_END_S):
            frame = await stream.receive()
            return isinstance(frame, frames.Body) and not frame.more
    return False
