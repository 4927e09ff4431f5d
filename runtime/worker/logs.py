"""What a function prints and logs, on its way to the server's log.

Standard output and error are a pipe to the gateway. Lines written through `print` and
`logging` carry their level and request: they are marked with a leading record separator
(ASCII 30) and written as JSON. What anything else writes to the descriptors arrives as
plain lines. Writing is synchronous: a line is safe even if the next statement crashes.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
import threading
import traceback
from typing import Any

import msgspec

from runtime.context import Call, current

MARK = b"\x1e"
MAX_LINE = 64 * 1024

_MOST_UNFINISHED = 32

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


class _Unfinished(threading.local):
    """What each request has written to each stream since its last line's end, on this thread."""

    def __init__(self) -> None:
        self.texts: dict[tuple[PrintStream, Call | None], str] = {}


_unfinished = _Unfinished()


class PrintStream(io.TextIOBase):
    """`sys.stdout` and `sys.stderr` of a function: each line becomes a record, a very long one several.

    What has no end yet waits for it, on each thread and for each request apart.
    """

    def __init__(self, level: str, descriptor: int) -> None:
        self._level = level
        self.buffer = io.FileIO(descriptor, "wb", closefd=False)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.buffer.fileno()

    def write(self, text: str) -> int:
        texts, whose = _unfinished.texts, (self, current.get())
        *lines, rest = (texts.pop(whose, "") + text).split("\n")
        for line in lines:
            self._emit(line)
        whole = len(rest) // MAX_LINE * MAX_LINE
        if whole:
            self._emit(rest[:whole])
        if rest[whole:]:
            texts[whose] = rest[whole:]
            self._make_room()
        return len(text)

    def _make_room(self) -> None:
        """A line that nobody ends must not stay for ever, and its request with it."""
        texts = _unfinished.texts
        if len(texts) > _MOST_UNFINISHED:
            stream, call = next((stream, call) for stream, call in texts if call is not None)
            emit(stream._level, texts.pop((stream, call)), call.id)

    def _emit(self, line: str) -> None:
        for start in range(0, len(line) or 1, MAX_LINE):
            emit(self._level, line[start : start + MAX_LINE])

    def flush(self) -> None:
        rest = _unfinished.texts.pop((self, current.get()), "")
        if rest:
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
    threading.excepthook = _thread_failed


def finish() -> None:
    """A request, or work that it left behind, is over: a line that it has begun ends here."""
    texts = _unfinished.texts
    if texts:  # seldom, and asked after every request
        for stream, call in tuple(texts):
            if call is current.get():
                stream.flush()


def loop_failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler: a task's failure is told as its request's (from Python 3.12)."""
    context_of = getattr(context.get("task") or context.get("future"), "get_context", None)
    if context_of is None:
        loop.default_exception_handler(context)
    else:
        context_of().copy().run(loop.default_exception_handler, context)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is SystemExit:
        return
    name = failure.thread.name if failure.thread is not None else "a thread"
    error = failure.exc_value if failure.exc_value is not None else failure.exc_type()
    emit("error", f"{name} failed\n{''.join(traceback.format_exception(error)).rstrip()}")
