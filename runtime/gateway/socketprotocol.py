"""The HTTP server's side of a WebSocket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from runtime.gateway.guard import FLUSH_S, LINGER_S

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, without its own ways to end a WebSocket when the server stops (1012, or a bare 500).

    The gateway closes each with a code and a reason, and the handshakes in flight are answered.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = LINGER_S
        self._last_timer: asyncio.TimerHandle | None = None
        self._broken = False

    def data_received(self, data: bytes) -> None:
        """Take the handshake, and frames once it is answered: a client waits for that (RFC 6455, 4.1)."""
        if self._broken:
            return
        early = self.handshake_initiated and not self.handshake_complete
        if not early:
            super().data_received(data)
        if early or not self.handshake_initiated:  # it is none that can be answered
            self.transport.close()

    def handle_parser_exception(self) -> None:
        """Say what rule was broken, and read on for a while: a close resets what still arrives, and with
        that takes the reason from the client (RFC 6455, 7.1.1; RFC 9112, 9.6)."""
        closed = self.conn.close_sent
        assert closed is not None
        self._broken = self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)

    async def send(self, message: ASGISendEvent) -> None:
        """Say it, if the connection is not being closed: what broke the rules is not talked to any more.

        Raises:
            ClientDisconnected: it is.
        """
        await self.writable.wait()
        if self._broken or self.transport.is_closing():
            raise ClientDisconnected
        await super().send(message)

    def shutdown(self) -> None:
        """Leave it to the gateway."""

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """All is said; a client that does not take it is given up."""
        super().on_task_complete(task)
        if not self.disconnected:
            self._last_timer = self.loop.call_later(FLUSH_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to be given up."""
        if self._last_timer is not None:
            self._last_timer.cancel()
        super().connection_lost(exc)
