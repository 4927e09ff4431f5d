"""What a provider sends: JSON objects."""

from __future__ import annotations

import json
import re
from typing import Any

from runtime.errors import UpstreamError


class Chunk(dict[str, Any]):
    """A JSON object that also answers to attributes: `chunk.choices[0].delta.content`.

    Names that a dict has itself (`items`, `get` …) stay the dict's: `chunk["items"]`.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            has = ", ".join(self) or "nothing"
            raise AttributeError(f"this chunk has no {name!r}; it has {has}") from None


_decode = json.JSONDecoder(object_hook=Chunk).decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Many clients take these for line ends; a lone surrogate has no UTF-8.
_UNSAFE = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


def parse(data: bytes | str) -> Chunk:
    """One object.

    Raises:
        ValueError: no JSON, or no object.
    """
    try:
        chunk = _decode(data.decode() if isinstance(data, bytes) else data)
    except RecursionError:
        raise ValueError("too deeply nested") from None
    if not isinstance(chunk, Chunk):
        raise ValueError("no JSON object")
    return chunk


def is_object(data: bytes) -> bool:
    """Whether this is a whole JSON object."""
    try:
        parse(data)
    except ValueError:
        return False
    return True


def compact(value: object) -> bytes:
    """JSON without spaces and on one line, whatever a client takes for a line."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", _encode(value)).encode()


def failure_in(chunk: Chunk) -> UpstreamError | None:
    """The error that an object reports: `{"error": "text"}` or `{"error": {"message": "text", …}}`."""
    error = chunk.get("error")
    if not error:
        return None
    message = error.get("message") if isinstance(error, dict) else error
    return UpstreamError(0, message if isinstance(message, str) else compact(error).decode())
