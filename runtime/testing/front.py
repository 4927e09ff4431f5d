"""The server's HTTP side, on an event loop that somebody else runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runtime.gateway import server


class Front:
    """The HTTP server, without its own loop that looks around ten times a second."""

    def __init__(self, own: server.Server) -> None:
        self.server = own
        own.config.load()

    def protocol(self) -> asyncio.Protocol:
        """One for each connection."""
        make: Callable[..., asyncio.Protocol] = self.server.config.http_protocol_class
        return make(config=self.server.config, server_state=self.server.server_state, app_state={})

    async def close(self, seconds: float) -> None:
        """End every connection, once it has the answer that is on its way."""
        state = self.server.server_state
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(set(state.tasks), timeout=seconds)
