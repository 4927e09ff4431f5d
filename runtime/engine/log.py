"""Where the engine's log goes: to the gateway, which writes the server's."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable

from runtime.frames import Told

_LONGEST = 50_000  # characters of one line, tracebacks included

Send = Callable[[Told], bool]
"""Whether there was a gateway to send it to."""


class GatewayLog(logging.Handler):
    """Hands records on, from any thread; what finds no gateway goes to standard error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Send) -> None:
        super().__init__()
        self._loop, self._send = loop, send

    def emit(self, record: logging.LogRecord) -> None:
        told = Told(record.levelname.lower(), self.format(record)[:_LONGEST])
        try:
            self._loop.call_soon_threadsafe(self._tell, told)
        except RuntimeError:  # the loop is closed
            _print(told)

    def _tell(self, told: Told) -> None:
        if not self._send(told):
            _print(told)


def _print(told: Told) -> None:
    print(f"engine: {told.level.upper()}: {told.message}", file=sys.stderr, flush=True)
