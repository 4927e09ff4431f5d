"""Reading what a worker's standard output and error carry."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import msgspec

_LEVELS = frozenset(("debug", "info", "warning", "error", "critical"))
_MARK = 0x1E
_MAX_LINE = 512 * 1024


class Marked(msgspec.Struct, frozen=True, rename={"level": "l", "text": "m", "request_id": "r"}):
    """A line that `print` or `logging` wrote; the worker's side is `worker.logs.Record`."""

    level: str
    text: str
    request_id: str = ""


_decoder = msgspec.json.Decoder(Marked)


class FunctionLog(asyncio.Protocol):
    """Cuts the pipe into lines; `on_line(level, text, request_id)` gets each."""

    def __init__(self, on_line: Callable[[str, str, str], None]) -> None:
        self._on_line = on_line
        self._partial = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _MAX_LINE:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._line(line)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._partial:
            self._line(self._partial)

    def _line(self, line: bytes) -> None:
        if line and line[0] == _MARK:
            try:
                marked = _decoder.decode(line[1:])
            except msgspec.MsgspecError:
                pass
            else:
                level = marked.level if marked.level in _LEVELS else "info"
                self._on_line(level, marked.text, marked.request_id)
                return
        text = line.decode("utf-8", "replace").rstrip("\r")
        if text:
            self._on_line("info", text, "")


async def read_pipe(fd: int, on_line: Callable[[str, str, str], None]) -> asyncio.ReadTransport:
    """Follow a pipe until every writer has closed it; takes the descriptor over."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: FunctionLog(on_line), os.fdopen(fd, "rb", buffering=0)
    )
    return transport
