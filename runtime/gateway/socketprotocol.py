"""The HTTP server's side of a WebSocket."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from runtime.gateway.guard import FLUSH_S, LINGER_S


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, without its own ways to end a WebSocket when the server stops (1012, or a bare 500).

    The gateway closes each with a code and a reason, and the handshakes in flight are answered.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = LINGER_S
        self._last_timer: asyncio.TimerHandle | None = None

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
