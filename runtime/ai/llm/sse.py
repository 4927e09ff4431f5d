"""Server-sent events, both ways. Pure: bytes in, events out; objects in, bytes out.

Parsing follows https://html.spec.whatwg.org/multipage/server-sent-events.html, without
`id` and `retry`, which serve clients that reconnect.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from runtime.ai.llm.chunk import compact

DONE = b"data: [DONE]\n\n"
BEAT = b": \n\n"
"""A comment: keeps proxies from taking silence for death."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event; `name` is "message" unless the server named it."""

    name: str
    data: str


class Events:
    """Cuts bytes, however they are split, into events. An event without its blank line is dropped."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._after_cr = False
        self._first_line = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        if not data:
            return []
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        first, *others = _LINE_END.split(data)
        self._rest.append(first)
        if not others:
            return []
        lines = [b"".join(self._rest), *others[:-1]]
        self._rest = [others[-1]]
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> Event | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        field, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None

    def _dispatch(self) -> Event | None:
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return Event(name, "\n".join(data)) if data else None


def event(value: object) -> bytes:
    """An event that carries one JSON object."""
    return b"data: " + compact(value) + b"\n\n"


def error_event(code: str, message: str) -> bytes:
    """The last event of a stream that breaks off."""
    return b"event: error\n" + event({"code": code, "message": message})
