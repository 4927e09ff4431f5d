"""Reading what a worker's standard output and error carry."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import cast

import msgspec

from runtime.framing import UNREADABLE

_LEVELS = frozenset(("debug", "info", "warning", "error", "critical"))
_MARK = 0x1E
_MAX_LINE = 512 * 1024
_LINES_AT_ONCE, _BYTES_AT_ONCE = 100, 64 * 1024
_SHARE = 0.1
_BURST_S = 0.05  # a tenth of it is what a log may take at once


class Marked(msgspec.Struct, frozen=True, rename={"level": "l", "text": "m", "request_id": "r"}):
    """A line that `print` or `logging` wrote; the worker's side is `worker.logs.Record`."""

    level: str
    text: str
    request_id: str = ""


_decoder = msgspec.json.Decoder(Marked)


class Lines:
    """Cuts what arrives into lines, a few at a time.

    Attributes:
        more: there may be whole lines that the last `take` did not give.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self.more = False

    def feed(self, data: bytes) -> None:
        self._data += data

    def take(self) -> list[bytes]:
        """The next whole lines: as many as may be handled in one go.

        What has no end by `_MAX_LINE` bytes counts as one.
        """
        data, start = self._data, 0
        lines: list[bytes] = []
        while len(lines) < _LINES_AT_ONCE and start < _BYTES_AT_ONCE:
            end = data.find(b"\n", start)
            if end < 0 and len(data) - start <= _MAX_LINE:
                self.more = False
                break
            stop = end if end >= 0 else len(data)
            lines.append(bytes(data[start:stop]))
            start = stop + 1
        else:
            self.more = True
        del data[:start]
        return lines

    def rest(self) -> list[bytes]:
        """Everything that is left, whether it has an end or not."""
        lines = bytes(self._data).split(b"\n")
        self._data.clear()
        return lines


def told(line: bytes) -> tuple[str, str, str] | None:
    """Level, text and request id of a line; None if it is empty."""
    if line and line[0] == _MARK:
        try:
            marked = _decoder.decode(line[1:])
        except UNREADABLE:
            pass
        else:
            level = marked.level if marked.level in _LEVELS else "info"
            return level, marked.text, marked.request_id
    text = line.decode("utf-8", "replace").rstrip("\r")
    return ("info", text, "") if text else None


class FunctionLog(asyncio.Protocol):
    """Reads a pipe; `on_line(level, text, request_id)` gets each line.

    A function may print without end: of the event loop's time its log gets a tenth, beyond a
    short burst. Then nothing is read for a while, the pipe fills, and that function waits.
    """

    def __init__(self, on_line: Callable[[str, str, str], None]) -> None:
        self._on_line = on_line
        self._lines = Lines()
        self._paid_at = 0.0  # when the time that its lines took is made up for
        self._resting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._lines.feed(data)
        if self._handle_some():
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._resting is not None:
            self._resting.cancel()
        self._handle(self._lines.rest())

    def _handle_some(self) -> bool:
        """Handle some lines; whether a rest follows, and then the next."""
        began = time.perf_counter()
        self._handle(self._lines.take())
        now = time.perf_counter()
        self._paid_at = max(self._paid_at, began - _BURST_S) + (now - began) / _SHARE
        if not self._lines.more and self._paid_at <= now:
            return False
        pause = max(0.0, self._paid_at - now)
        self._resting = asyncio.get_running_loop().call_later(pause, self._go_on)
        return True

    def _go_on(self) -> None:
        self._resting = None
        if not self._handle_some():
            self._transport.resume_reading()

    def _handle(self, lines: list[bytes]) -> None:
        for line in lines:
            record = told(line)
            if record is not None:
                self._on_line(*record)


async def read_pipe(fd: int, on_line: Callable[[str, str, str], None]) -> asyncio.ReadTransport:
    """Follow a pipe until every writer has closed it; takes the descriptor over."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: FunctionLog(on_line), os.fdopen(fd, "rb", buffering=0)
    )
    return transport
