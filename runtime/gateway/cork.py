"""Sending a response's head and its first piece of body in one packet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Corked:
    """A transport whose writes wait for the end of the event loop's turn.

    uvicorn writes the head and the body apart, and uvloop sends each at once: twice the
    system calls, and twice the wake-ups of the client, for every small response.

    Args:
        close: closes the connection, in its owner's way.
        held: what waits; one list for all responses of a connection, so that none overtakes another.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        close: Callable[[], None],
        held: list[bytes],
    ) -> None:
        self._transport, self._loop, self._close = transport, loop, close
        self._held = held

    def write(self, data: bytes) -> None:
        """Send the first piece with what follows in this turn; once two are there, at once."""
        if not self._held:
            self._held.append(data)
            self._loop.call_soon(self._flush)
        else:
            self._held.append(data)
            self._flush()

    def _flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            if not self._transport.is_closing():
                self._transport.write(data)

    def close(self) -> None:
        """Close, after what was written."""
        self._flush()
        self._close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
