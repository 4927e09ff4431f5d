"""The signs of life of an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from runtime.worker.accounting import Meter

BEAT_S = 0.1


class Heart:
    """Tells the gateway that the event loop is alive, and charges threads, while there is something to do.

    Args:
        is_busy: whether there is, apart from threads that use the processor.
    """

    def __init__(self, meter: Meter, is_busy: Callable[[], bool]) -> None:
        self._meter, self._is_busy = meter, is_busy
        self._loop = asyncio.get_running_loop()
        self._beats = False
        meter.on_call = self._start_soon

    def start(self) -> None:
        """There is something to do."""
        if not self._beats:
            self._beats = True
            self._meter.ledger.beat()
            self._loop.call_later(BEAT_S, self._beat)

    def _start_soon(self) -> None:
        """The same, from any thread."""
        if not self._beats:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the worker with it
                self._loop.call_soon_threadsafe(self.start)

    def _beat(self) -> None:
        self._beats = False  # first: a thread that begins from here on starts it again by itself
        goes_on = True
        try:
            goes_on = self._meter.settle_all() or self._is_busy()
        finally:
            if goes_on:
                self.start()
            elif not self._beats:
                self._meter.ledger.rest()
