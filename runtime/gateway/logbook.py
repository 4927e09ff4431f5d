"""What the server tells: one line per request, per function's print, per event of its own.

Three looks of the same records: coloured for a terminal, plain for a pipe or a file, JSON
for a collector. No line carries a query string, a header or a body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import msgspec

Look = Literal["color", "plain", "json"]

_DIM, _RED, _GREEN, _YELLOW, _CYAN, _RESET = (
    "\x1b[2m",
    "\x1b[31m",
    "\x1b[32m",
    "\x1b[33m",
    "\x1b[36m",
    "\x1b[0m",
)
_LEVEL_COLOR = {"error": _RED, "critical": _RED, "warning": _YELLOW, "debug": _DIM}
# What could steer a terminal, hide text or begin a line: control characters (C0 but tab and
# newline, C1), line separators, changes of direction.
_STEERING = (*range(9), *range(11, 32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_HARMLESS = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _STEERING}
_ESCAPED = {code: f"\\u{code:04x}" for code in _STEERING}  # what JSON leaves as it is
_CONTINUED = "\n    "  # no line of ours begins so: a function cannot print one that seems to be ours
_ID_SHOWN = 8  # of a request's id, on a terminal: enough to tell one from another
_ONE_LINE = _HARMLESS | {9: "\\t", 10: "\\n"}


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One record, as JSON shows it."""

    time: str
    level: str
    message: str
    function: str = ""
    request_id: str = ""
    worker: int = 0


class Access(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One request, as JSON shows it."""

    time: str
    level: str
    event: str
    method: str
    path: str
    function: str = ""
    status: int
    code: str = ""
    limit: str = ""
    ms: float
    request_id: str
    worker: int = 0


class Logbook:
    """Formats records and hands them on.

    Args:
        look: how lines appear.
        write: takes one finished line.
    """

    def __init__(self, look: Look, write: Callable[[str], None]) -> None:
        self._look, self._write = look, write
        self._second, self._stamp = 0, ""
        self._json = msgspec.json.Encoder()

    def tell(
        self, message: str, *, level: str = "info", function: str = "", request_id: str = "", worker: int = 0
    ) -> None:
        """An event, or what a function printed."""
        if self._look == "json":
            record = Line(
                time=self._now(),
                level=level,
                message=message,
                function=function,
                request_id=request_id,
                worker=worker,
            )
            self._write_json(record)
            return
        message = message.rstrip("\n").translate(_HARMLESS).replace("\n", _CONTINUED)
        if self._look == "plain":
            where = _where(function, worker)
            request = f" [{request_id.translate(_ONE_LINE)}]" if request_id else ""
            self._write(f"{self._now()} {level.upper():<7}{where}{request} {message}")
            return
        color = _LEVEL_COLOR.get(level, "")
        text = f"{color}{message}{_RESET}" if color else message
        self._write(f"{_DIM}{self._now()[11:19]}{_RESET} {_whence(function, worker, request_id)}{text}")

    def request(
        self,
        method: str,
        path: str,
        function: str,
        status: int,
        code: str,
        ms: float,
        request_id: str,
        worker: int = 0,
        limit: str = "",
    ) -> None:
        """The access line of one request; `limit` is the key of the one that ended it."""
        if not path.isprintable():
            path = path.translate(_ONE_LINE)
        if not code.isprintable():
            code = code.translate(_ONE_LINE)
        if self._look == "json":
            record = Access(
                time=self._now(), level="info", event="request", method=method, path=path,
                function=function, status=status, code=code, limit=limit,
                ms=round(ms, 2), request_id=request_id, worker=worker,
            )  # fmt: skip
            self._write_json(record)
            return
        because = f" {code} ({limit})" if limit else f" {code}" if code else ""
        if self._look == "plain":
            where = _where(function, worker)
            self._write(
                f"{self._now()} REQUEST {status} {method} {path} {ms:.1f}ms{where} [{request_id}]{because}"
            )
            return
        color = _GREEN if status < 400 else _YELLOW if status < 500 else _RED
        self._write(
            f"{_DIM}{self._now()[11:19]}{_RESET} {color}{status}{_RESET} {method} {path} "
            f"{_DIM}{ms:.1f} ms{_RESET} {_whence(function, worker, request_id)}{color}{because[1:]}{_RESET}"
        )

    def _write_json(self, record: Line | Access) -> None:
        self._write(self._json.encode(record).decode().translate(_ESCAPED))

    def raw(self, text: str) -> None:
        """Text for people, unless the log is for machines."""
        if self._look == "json":
            self.tell(text)
        else:
            self._write(text.translate(_HARMLESS))

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{int((now - second) * 1000):03d}Z"


def _where(function: str, worker: int) -> str:
    """Function and worker, as the plain look shows them."""
    return f" {function}/{worker}" if worker else f" {function}" if function else ""


def _whence(function: str, worker: int, request_id: str) -> str:
    """The same and the begin of the request's id, as the coloured look shows them."""
    where = f"{_CYAN}{function}{_RESET}{_DIM}{f'/{worker}' if worker else ''}{_RESET} " if function else ""
    request = request_id.translate(_ONE_LINE)[:_ID_SHOWN]
    return f"{where}{_DIM}[{request}]{_RESET} " if request else where
