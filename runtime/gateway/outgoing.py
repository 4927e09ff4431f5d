"""What a worker wants to have sent to a client, checked: a function controls its own worker.

Whatever it writes on its connections, the client gets well-formed HTTP or an error of ours.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from runtime import frames
from runtime.errors import STATUS, HostError, InvalidResponse, Reported, WorkerError
from runtime.gateway import requestid

# Name and value, checked as one with a newline between them, which neither can hold.
_field = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+\n[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch
_LENGTH, _LONGEST_LENGTH = b"content-length", 18
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Not for a function to say: the connection is ours, and so is the name of the request.
_OURS = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", requestid.HEADER))
_HANDSHAKE = frozenset((_LENGTH, *(b"sec-websocket-" + of for of in (b"accept", b"extensions", b"protocol"))))
_SPECIAL = _OURS | {_LENGTH}
_NO_BODY = (204, 304)  # a length would make the client wait, or take the next response for this one's
_PHRASED = frozenset(HTTPStatus)
_LONGEST_REASON = 123
_NOTICED_INSIDE = frozenset(("cpu_ms", "memory_mb", "tmp_mb"))  # limits that a worker may report


def response_headers(status: int, headers: frames.Headers) -> frames.Headers:
    """The headers that are sent with a response.

    Raises:
        InvalidResponse: status or headers cannot stand in an HTTP message (RFC 9110, 5 and 15).
    """
    if not 200 <= status <= 599:
        raise InvalidResponse(f"the function's response has status {status}: use one from 200 to 599")
    kept: frames.Headers = []
    sized = False
    for pair in headers:
        name, value = pair
        if name in _SPECIAL or _field(name + b"\n" + value) is None:  # most are neither
            name = name.lower()
            if name in _OURS or (name == _LENGTH and status in _NO_BODY):
                continue
            if name != _LENGTH:
                _check(name, value)
            elif sized or not value.isdigit() or len(value) > _LONGEST_LENGTH:
                raise InvalidResponse(
                    "the function's response has a content-length that is no number, or two of them"
                )
            else:
                sized = True
            pair = name, value
        kept.append(pair)
    return kept


def handshake_headers(headers: frames.Headers) -> frames.Headers:
    """The headers that a function adds to the answer to a WebSocket's handshake.

    Raises:
        InvalidResponse: one cannot stand in an HTTP message.
    """
    kept = [(name.lower(), value) for name, value in headers]
    for name, value in kept:
        _check(name, value)
    return [pair for pair in kept if pair[0] not in _OURS | _HANDSHAKE]


def denial_headers(status: int, headers: frames.Headers) -> frames.Headers:
    """The headers of a response instead of a WebSocket.

    Raises:
        InvalidResponse: as for `response_headers`, or the status has no name.
    """
    if status not in _PHRASED:
        raise InvalidResponse(f"a WebSocket cannot be refused with status {status}: use a registered one")
    response_headers(status, headers)
    return handshake_headers(headers)  # the server counts the body itself


def subprotocol(name: str | None) -> str | None:
    """The subprotocol that a function chooses.

    Raises:
        InvalidResponse: it is no token.
    """
    if name is not None and _TOKEN.fullmatch(name) is None:
        raise InvalidResponse("the function chose a WebSocket subprotocol that cannot be sent")
    return name


def closes(code: int, reason: str) -> bool:
    """Whether a WebSocket can be closed so (RFC 6455, 5.5 and 7.4)."""
    known = 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
    return known and len(reason.encode()) <= _LONGEST_REASON


def failure(frame: frames.Failure) -> HostError:
    """The error that a worker reports; one that we do not know is just its failure."""
    if frame.code not in STATUS:
        return WorkerError()
    limit = frame.limit if frame.limit in _NOTICED_INSIDE else ""  # else it could be anything
    return Reported(frame.code, frame.message, limit=limit)


def _check(name: bytes, value: bytes) -> None:
    if _field(name + b"\n" + value) is None:
        raise InvalidResponse(f"the function's response has a header that cannot be sent: {name[:64]!r}")
