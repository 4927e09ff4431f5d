"""Writing the log without ever blocking the event loop."""

from __future__ import annotations

import asyncio
import os
import queue
import threading

_FLUSH_S = 0.02
_MOST_WAITING = 16 * 1024 * 1024


class Outlet:
    """Lines on their way to a descriptor, written by a thread in batches.

    When whoever reads the descriptor falls more than 16 MB behind, lines are dropped, and
    their number is said as soon as there is room: a stuck terminal must not stop requests.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._batch: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queued = self._done = 0  # bytes; the loop alone counts the one, the thread the other
        self._dropped = 0
        self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue one line (without its newline)."""
        if self._queued - self._done > _MOST_WAITING:
            self._dropped += 1
            return
        self._batch.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)

    def close(self) -> None:
        """Write what waits, for at most two seconds."""
        self._flush()
        self._queue.put(None)
        self._thread.join(2.0)

    def _flush(self) -> None:
        self._timer = None
        if self._dropped:
            self._batch.append(f"… {self._dropped} lines dropped: nobody reads this log fast enough")
            self._dropped = 0
        data = ("\n".join(self._batch) + "\n").encode("utf-8", "replace") if self._batch else b""
        self._batch.clear()
        self._queued += len(data)
        self._queue.put(data)

    def _drain(self) -> None:
        while (data := self._queue.get()) is not None:
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except OSError:
                    break  # nobody reads any more
            self._done += len(data)
