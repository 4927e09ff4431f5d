"""What a function prints and logs, on its way to the server's log.

Standard output and error are a pipe to the gateway. Lines written through `print` and
`logging` carry their level and request: they are marked with a leading record separator
(ASCII 30) and written as JSON. What anything else writes to the descriptors arrives as
plain lines. Writing is synchronous: a line is safe even if the next statement crashes.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading

import msgspec

from runtime.context import current

MARK = b"\x1e"
MAX_LINE = 64 * 1024

_lock = threading.Lock()


class Record(
    msgspec.Struct, frozen=True, omit_defaults=True, rename={"level": "l", "text": "m", "request_id": "r"}
):
    """One marked line."""

    level: str
    text: str
    request_id: str = ""


_encoder = msgspec.json.Encoder()


def emit(level: str, text: str, request_id: str = "") -> None:
    """Write one marked record; a record of many lines stays one."""
    if len(text) > MAX_LINE:
        text = f"{text[:MAX_LINE]}… ({len(text) - MAX_LINE} characters cut)"
    if not request_id:
        call = current.get()
        request_id = call.id if call is not None else ""
    line = MARK + _encoded(Record(level, text, request_id)) + b"\n"
    with _lock:
        view = memoryview(line)
        while view:
            try:
                view = view[os.write(2, view) :]
            except OSError:
                return  # the gateway is gone, and so are we in a moment


def _encoded(record: Record) -> bytes:
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:  # half of a character: told as Python's own stderr does
        text = record.text.encode("utf-8", "backslashreplace").decode()
        return _encoder.encode(Record(record.level, text, record.request_id))


class PrintStream(io.TextIOBase):
    """`sys.stdout` and `sys.stderr` of a function: each line becomes a record, a very long one several."""

    def __init__(self, level: str, descriptor: int) -> None:
        self._level = level
        self._partial = threading.local()
        self.buffer = io.FileIO(descriptor, "wb", closefd=False)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.buffer.fileno()

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._partial, "text", "") + text).split("\n")
        for line in lines:
            self._emit(line)
        whole = len(rest) // MAX_LINE * MAX_LINE
        if whole:
            self._emit(rest[:whole])
        self._partial.text = rest[whole:]
        return len(text)

    def _emit(self, line: str) -> None:
        for start in range(0, len(line) or 1, MAX_LINE):
            emit(self._level, line[start : start + MAX_LINE])

    def flush(self) -> None:
        rest = getattr(self._partial, "text", "")
        if rest:
            self._partial.text = ""
            emit(self._level, rest)


class RecordHandler(logging.Handler):
    """Sends `logging` records the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            name = "" if record.name == "root" else f"{record.name}: "
            emit(record.levelname.lower(), name + self.format(record))
        except Exception:
            self.handleError(record)


def install() -> None:
    """Route print, logging and warnings into records."""
    sys.stdout = PrintStream("info", 1)
    sys.stderr = PrintStream("error", 2)
    logging.basicConfig(level=logging.INFO, handlers=[RecordHandler()], format="%(message)s", force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # What it warns of is in our own line about a form that cannot be read.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.captureWarnings(True)
