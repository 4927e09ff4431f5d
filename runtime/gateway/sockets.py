"""Carrying a WebSocket between a client and a worker."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message

from runtime import frames
from runtime.errors import ChannelClosed, Reported, WorkerError
from runtime.framing import MAX_FRAME
from runtime.gateway import requestid
from runtime.gateway.deployment import Deployment
from runtime.gateway.dispatch import NotAccepted, connection, lease
from runtime.gateway.exchange import Exchange
from runtime.gateway.feed import ClientGone
from runtime.gateway.worker import ResponseStream

_SERVER_ERROR = 1011
MAX_MESSAGE = MAX_FRAME - 1024
"""Longest message in bytes, either way."""


async def carry(
    exchange: Exchange, deployment: Deployment, head: frames.Head, subprotocol: str | None
) -> None:
    """Connect a WebSocket to a worker until one of them closes it.

    Args:
        subprotocol: what to echo when the function chooses none (it carried the token).

    Raises:
        FunctionsError: the handshake failed.
        ClientGone: the client left before its end.
    """
    await exchange.receive()  # websocket.connect
    for last in (False, True):
        pool, worker = await lease(deployment)
        try:
            stream = await connection(pool, worker)
            head.generation = pool.generation.name
            try:
                await _Socket(exchange, stream, subprotocol).run(head)
            finally:
                stream.abort()
            return
        except NotAccepted:
            pool.discard(worker)
            if last:
                raise WorkerError from None
        finally:
            pool.release(worker, None)


class _Socket:
    def __init__(self, exchange: Exchange, stream: ResponseStream, subprotocol: str | None) -> None:
        self._exchange, self._stream, self._subprotocol = exchange, stream, subprotocol
        self._open = self._left = False

    async def run(self, head: frames.Head) -> None:
        self._stream.begin()
        self._stream.on_accepted = self._on_accepted
        self._stream.send(head)
        inbound = asyncio.get_running_loop().create_task(self._inbound())
        try:
            while True:
                frame = await self._stream.receive()
                if isinstance(frame, frames.SocketAccept):
                    await self._accept(frame)
                elif await self._outbound(frame):
                    return
        except ChannelClosed:
            await self._lost()
        except OSError:
            self._gone()  # while something was sent to it
        finally:
            inbound.cancel()

    def _on_accepted(self) -> None:
        self._exchange.accepted = True

    async def _accept(self, frame: frames.SocketAccept) -> None:
        self._open = True
        self._exchange.status = 101
        chosen = frame.subprotocol or self._subprotocol
        headers = self._with_id(frame.headers)
        await self._exchange.send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})

    async def _outbound(self, frame: frames.ResponseFrame) -> bool:
        """Pass a frame on to the client; whether it was the last."""
        match frame:
            case frames.SocketMessage(text, data):
                await self._exchange.send({"type": "websocket.send", "text": text, "bytes": data})
            case frames.SocketClose(code, reason):
                await self._close(code, reason)
                return True
            case frames.Start(status, headers):
                await self._deny(status, headers)
            case frames.Body(data, more):
                await self._deny_body(data, more)
                return not more
            case frames.Failure(code, message):
                if not self._open:
                    raise Reported(code, message)
                self._exchange.code = code
                await self._close(_SERVER_ERROR, "the function failed")
                return True
        return False

    async def _deny(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
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
        if not self._open:
            await self._deny(403, [])
            return await self._deny_body(b"", False)
        await self._exchange.send({"type": "websocket.close", "code": code, "reason": reason})

    async def _lost(self) -> None:
        """The connection to the worker is gone: for the client's sake, or because the worker went."""
        if self._left:
            self._gone()
        elif self._open:
            self._exchange.code = "WORKER_ERROR"
            await self._close(_SERVER_ERROR, "the function ended")
        elif self._stream.accepted:
            raise WorkerError
        else:
            raise NotAccepted

    def _gone(self) -> None:
        """The client left: the usual end of a WebSocket, if it was open."""
        if not self._open:
            raise ClientGone

    async def _inbound(self) -> None:
        """Pass the client's messages on, no faster than the worker takes them."""
        with contextlib.suppress(ChannelClosed):
            while (message := await self._exchange.receive())["type"] != "websocket.disconnect":
                self._stream.send(_frame(message))
                await self._stream.drain()
            self._left = True
            self._stream.send(frames.SocketClose(message.get("code") or 1005, message.get("reason") or ""))
            self._stream.close()


def _frame(message: Message) -> frames.SocketMessage:
    return frames.SocketMessage(message.get("text"), message.get("bytes"))
