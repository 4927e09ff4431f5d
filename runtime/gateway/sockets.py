"""Carrying a WebSocket between a client and a worker."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message

from runtime import frames
from runtime.errors import ChannelClosed, HostError, IdleTimeout, ShuttingDown, WorkerError
from runtime.framing import MAX_FRAME
from runtime.gateway import requestid
from runtime.gateway.deadlines import Clocks, Deadlines
from runtime.gateway.deployment import Deployment
from runtime.gateway.dispatch import NotAccepted, TakenBack, connection, lease, not_accepted, take
from runtime.gateway.exchange import Exchange
from runtime.gateway.feed import ClientGone
from runtime.gateway.outgoing import closes, denial_headers, failure, handshake_headers, subprotocol
from runtime.gateway.pool import Pool
from runtime.gateway.responsestream import ResponseStream
from runtime.gateway.wear import EARLY_DROP, MEMORY, WALL_CLOCK
from runtime.gateway.worker import Worker

_VANISHED, _SERVER_ERROR = 1006, 1011
_GOING_AWAY, _SERVICE_RESTART = 1001, 1012  # RFC 6455, section 7.4.1, and the registry that it founded
_PARTINGS = {
    "reload": (_SERVICE_RESTART, "a new version of the function is served"),
    **dict.fromkeys(
        (EARLY_DROP, MEMORY, WALL_CLOCK), (_GOING_AWAY, "the worker that carried it is replaced")
    ),
    "removed": (_GOING_AWAY, "the function is no longer served"),
    "termination": (_GOING_AWAY, "the server is shutting down"),
}
_LONGEST_REASON = 123  # bytes; RFC 6455, section 5.5
_FAREWELL_S = 10.0  # how long a function may still work after its socket was closed
_LONGEST_DENIAL = 1024 * 1024
MAX_MESSAGE = MAX_FRAME - 1024
"""Longest message in bytes, either way."""


async def carry(
    exchange: Exchange,
    deployment: Deployment,
    head: frames.Head,
    subprotocol: str | None,
    clocks: Clocks | None = None,
) -> None:
    """Connect a WebSocket to a worker until one of them closes it.

    Args:
        subprotocol: what to echo when the function chooses none (it carried the token).
        clocks: time limits of this WebSocket alone; None: those of the function.

    When its worker is to leave, it is closed with a code that says why: 1012 for a newer
    version, 1001 for a function or server that goes. With 1001 ends also one on which no
    message came or went for `websocket_idle_s`.

    Raises:
        FunctionsError: the handshake failed.
        ClientGone: the client left before its end.
    """
    await exchange.receive()  # websocket.connect
    again, since = False, None
    while True:
        pool, worker = await _turn(exchange, deployment, since)
        exchange.worker = worker.pid
        head.generation = pool.generation.name
        try:
            stream = await connection(worker)
            await _Socket(exchange, stream, subprotocol, clocks or pool.clocks).run(head, pool, worker)
            return
        except TakenBack:
            exchange.series.retries += 1
        except NotAccepted:
            pool.discard(worker)
            if again:
                raise WorkerError from None
            again = True
            exchange.series.retries += 1
        except ShuttingDown:
            if deployment.pool is pool:
                raise  # else a newer generation has taken over in this moment
        finally:
            pool.release(worker, None)
        since = exchange.began


async def _turn(exchange: Exchange, deployment: Deployment, since: float | None) -> tuple[Pool, Worker]:
    """A slot. A client that leaves while it waits for one gives its place up.

    Raises:
        HostError: as `lease`.
        ClientGone: it left.
    """
    if (leased := take(deployment)) is not None:
        return leased
    task, leaving = asyncio.current_task(), asyncio.create_task(_event(exchange))
    assert task is not None
    leaving.add_done_callback(lambda done: done.cancelled() or task.cancel())
    try:
        return await lease(deployment, since)
    except asyncio.CancelledError:
        if not leaving.done() or task.uncancel():
            raise
        raise ClientGone from None
    finally:
        leaving.cancel()


async def _event(exchange: Exchange) -> Message:
    return await exchange.receive()


class _Socket:
    def __init__(
        self, exchange: Exchange, stream: ResponseStream, subprotocol: str | None, clocks: Clocks
    ) -> None:
        self._exchange, self._stream, self._subprotocol = exchange, stream, subprotocol
        self._clocks = clocks
        self._late: IdleTimeout | None = None
        self._open = self._denied = self._left = self._closed = False
        self._farewell = asyncio.timeout(None)
        self._parting = ""  # why the host closes it
        self._listening: asyncio.Task[None] | None = None
        self._saying_so: asyncio.Task[None] | None = None
        self._denied_with = 0  # bytes

    async def run(self, head: frames.Head, pool: Pool, worker: Worker) -> None:
        """Carry it to its end, and with it the connection to the worker."""
        try:
            pool.enter(self._part, worker)
            self._clocks.idle.add(self)
            head.deadline, head.limit_s = self._clocks.deadline(), self._clocks.wall.seconds
            self._stream.begin(head)
            self._stream.send(head)
            self._listening = asyncio.get_running_loop().create_task(self._inbound())
            async with self._farewell:
                await self._relay()
        except TimeoutError:
            pass  # it is closed, as far as whoever does not read or end can be told
        finally:
            self._end(pool)

    def _end(self, pool: Pool) -> None:
        self._exchange.accepted = self._stream.accepted
        pool.leave(self._part)
        self._clocks.idle.remove(self)
        self._clocks.socket.remove(self)
        for task in (self._listening, self._saying_so):
            if task is not None:
                task.cancel()
        self._stream.abort()

    def _part(self, reason: str) -> None:
        """Close it, since its worker leaves; a handshake that has begun is finished first."""
        self._parting = reason
        if self._open and not self._left:
            self._end_for_both(*_PARTINGS[reason])

    def _end_for_both(self, code: int, reason: str) -> None:
        """Close it towards the client and the function."""
        if self._listening is not None:
            self._listening.cancel()  # the function hears nothing after the end
        self._leave(code, reason)
        # A client that does not read must not keep the others waiting.
        self._saying_so = asyncio.get_running_loop().create_task(self._say_goodbye(code, reason))

    def expired(self, limit: Deadlines) -> None:
        """Nothing was said for too long: by the function before the handshake's end, by both after it."""
        seconds = limit.seconds
        if not self._open:
            text = f"The function did not take the WebSocket within {seconds:g} s (idle_s)"
            self._late = IdleTimeout(text, limit="idle_s")
            self._stream.abort()
        elif not self._left:
            self._exchange.blame(IdleTimeout(limit="websocket_idle_s"))
            self._end_for_both(_GOING_AWAY, f"no message for {seconds:g} s (websocket_idle_s)")

    async def _say_goodbye(self, code: int, reason: str) -> None:
        with contextlib.suppress(OSError):
            await self._close(code, reason)

    async def _relay(self) -> None:
        """Pass the function's frames on to the last; after the client's leaving they are for nobody."""
        over = False
        try:
            while not over:
                frame = await self._stream.receive()
                if self._left:
                    continue
                try:
                    over = await self._outbound(frame)
                except OSError:
                    self._leave(_VANISHED, "")
        except ChannelClosed:
            await self._lost()
        if self._saying_so is not None:
            await self._saying_so

    async def _outbound(self, frame: frames.ResponseFrame) -> bool:
        """Pass a frame on to the client; whether it was the last."""
        waiting = not (self._open or self._denied)
        match frame:
            case frames.SocketAccept() if waiting:
                await self._accept(frame)
            case frames.SocketMessage(text, data) if self._open and (text is None) is not (data is None):
                self._clocks.socket.touch(self)
                await self._exchange.send({"type": "websocket.send", "text": text, "bytes": data})
            case frames.SocketClose(code, reason) if not self._denied and closes(code, reason):
                await self._close(code, reason)
                return True
            case frames.Start(status, headers) if waiting:
                await self._deny(status, denial_headers(status, headers))
            case frames.Body(data, more) if self._denied and self._has_room(data):
                self._clocks.idle.touch(self)
                await self._deny_body(data, more)
                return not more
            case frames.Failure():
                return await self._fail(failure(frame))
            case _:  # what has no place here
                return await self._fail(WorkerError())
        return False

    async def _accept(self, frame: frames.SocketAccept) -> None:
        chosen = subprotocol(frame.subprotocol) or self._subprotocol
        headers = self._with_id(handshake_headers(frame.headers))
        await self._exchange.send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})
        self._open = True
        self._clocks.idle.remove(self)
        self._clocks.socket.add(self)
        self._exchange.status = 101
        self._exchange.series.websockets += 1
        if self._parting:
            self._part(self._parting)

    async def _fail(self, error: HostError) -> bool:
        """End with an error, as far as the client can still be told."""
        if not self._open:
            raise error
        self._exchange.blame(error)
        await self._close(_SERVER_ERROR, "the function failed")
        return True

    def _has_room(self, data: bytes) -> bool:
        """The server keeps the whole body of a refusal in memory before it sends it."""
        self._denied_with += len(data)
        return self._denied_with <= _LONGEST_DENIAL

    async def _deny(self, status: int, headers: frames.Headers) -> None:
        self._denied = True
        self._exchange.status = status
        headers = self._with_id(headers)
        await self._exchange.send(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )

    async def _deny_body(self, data: bytes, more: bool) -> None:
        await self._exchange.send({"type": "websocket.http.response.body", "body": data, "more_body": more})

    def _with_id(self, headers: frames.Headers) -> frames.Headers:
        return [*headers, (requestid.HEADER, self._exchange.request_id.encode())]

    async def _close(self, code: int, reason: str) -> None:
        """Close it; only the first to do so is heard."""
        if self._closed:
            return
        self._closed = True
        if not self._open:
            await self._deny(403, [])
            return await self._deny_body(b"", False)
        await self._exchange.send({"type": "websocket.close", "code": code, "reason": reason})

    async def _lost(self) -> None:
        """The connection to the worker is gone: for the client's sake, or because the worker went."""
        if self._late is not None and not self._denied:
            raise self._late
        if self._left:
            if not self._open:
                raise ClientGone
        elif self._open:
            error = self._stream.sentence or WorkerError()
            self._exchange.blame(error)
            said = "the function ended" if self._stream.sentence is None else error.message
            await self._say_goodbye(_SERVER_ERROR, said[:_LONGEST_REASON])
        elif self._stream.accepted:
            raise self._stream.sentence or WorkerError
        else:
            raise not_accepted(self._stream)

    def _leave(self, code: int, reason: str) -> None:
        """The client left. The function is told, and may finish; one that has not accepted it stops."""
        if self._left:
            return
        self._left = True
        self._stream.send(frames.SocketClose(code, reason))
        if self._open:
            self._farewell.reschedule(asyncio.get_running_loop().time() + _FAREWELL_S)
        else:
            self._stream.close()

    async def _inbound(self) -> None:
        """Pass the client's messages on, no faster than the worker takes them."""
        with contextlib.suppress(ChannelClosed):
            while (message := await self._exchange.receive())["type"] != "websocket.disconnect":
                self._clocks.socket.touch(self)
                self._stream.send(_frame(message))
                await self._stream.drain()
            self._leave(message.get("code") or 1005, message.get("reason") or "")


def _frame(message: Message) -> frames.SocketMessage:
    return frames.SocketMessage(message.get("text"), message.get("bytes"))
