"""Many equal time limits behind one timer."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from runtime.project.settings import Limits


class Limited(Protocol):
    """What may take only so long."""

    def expired(self, limit: Deadlines) -> None:
        """This limit has passed."""


class Deadlines:
    """Tells what was not removed in time.

    Every entry has the same limit, so they fall due in the order of their arrival, and one
    timer for the oldest serves all: an entry costs two dictionary operations.

    Args:
        seconds: the limit; 0: there is none.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: dict[Limited, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Limited) -> float:
        """Tell `entry` when the limit has passed, unless it is removed before.

        Returns when that is, in seconds of CLOCK_MONOTONIC; 0: never.
        """
        if not self.seconds:
            return 0.0
        due = self._due[entry] = time.monotonic() + self.seconds
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self._ring)
        return due

    def remove(self, entry: Limited) -> None:
        """Forget an entry; one that is not there is fine."""
        self._due.pop(entry, None)

    def touch(self, entry: Limited) -> None:
        """Begin anew for an entry; one that is not there stays away."""
        if self._due.pop(entry, None) is not None:
            self.add(entry)

    def _ring(self) -> None:
        self._timer = None
        for entry, due in list(self._due.items()):
            left = due - time.monotonic()
            if left > 0:
                if self._timer is None:  # else one who expired has begun anew
                    self._timer = asyncio.get_running_loop().call_later(left, self._ring)
                return
            if self._due.pop(entry, None) is not None:  # one may have removed another
                entry.expired(self)


class Clocks:
    """The time limits of one function's requests.

    Attributes:
        wall: the whole of a request, from its arrival at a worker (`timeout_s`).
        idle: silence while a response is awaited, its first byte or its next (`idle_s`).
        socket: silence on an open WebSocket, both ways (`websocket_idle_s`).
    """

    __slots__ = ("idle", "socket", "wall")

    def __init__(self, limits: Limits) -> None:
        self.wall = Deadlines(limits.timeout_s)
        self.idle = Deadlines(limits.idle_s)
        self.socket = Deadlines(limits.websocket_idle_s)

    def deadline(self) -> float:
        """When a request that begins now is over, in seconds of CLOCK_MONOTONIC; 0: never."""
        return time.monotonic() + self.wall.seconds if self.wall.seconds else 0.0
