"""A connection on which a test decides about every byte."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.running import Server

TIMEOUT_S = 20.0


class Head(NamedTuple):
    """Status and headers of a response; names in lower case, the last of equal names wins."""

    status: int
    headers: dict[str, str]


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Cut(Exception):
    """The connection ended in the middle of a response."""


class Wire:
    """One TCP connection to a server."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        self.sock = socket.create_connection((host, int(port)), TIMEOUT_S)
        self._file = self.sock.makefile("rb")
        self._token = server.token()

    # sending

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(
        self, method: str, target: str | bytes, *headers: str, body: bytes = b"", key: bool = True
    ) -> None:
        """Send a request; `Content-Length` is added for a body, the anon key unless `key` is false."""
        self.send(self.head_of(method, target, *headers, key=key, length=len(body)) + body)

    def head_of(
        self, method: str, target: str | bytes, *headers: str, key: bool = True, length: int = 0
    ) -> bytes:
        """The bytes of a request's head."""
        path = target.encode() if isinstance(target, str) else target
        lines = list(headers)
        if not any(line.lower().startswith("host:") for line in headers):
            lines.append("Host: localhost")
        if key:
            lines.append(f"Authorization: Bearer {self._token}")
        if length:
            lines.append(f"Content-Length: {length}")
        rest = "".join(f"{line}\r\n" for line in lines).encode()
        return method.encode() + b" " + path + b" HTTP/1.1\r\n" + rest + b"\r\n"

    def send_chunk(self, data: bytes) -> None:
        """One piece of a chunked body; an empty one ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    # receiving

    def head(self) -> Head:
        """Read a response up to its body."""
        status = self._line().split(b" ")
        headers = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Head(int(status[1]), headers)

    def chunk(self) -> bytes:
        """The next piece of a chunked body; empty at its proper end.

        Raises:
            Cut: the connection ended before that.
        """
        data = self.exactly(int(self._line(), 16))
        self.exactly(2)
        return data

    def answer(self, *, bodiless: bool = False) -> Answer:
        """Read a whole response. `bodiless`: the answer to HEAD."""
        head = self.head()
        if bodiless or head.status in (204, 304):
            return Answer(*head, b"")
        if head.headers.get("transfer-encoding") == "chunked":
            return Answer(*head, b"".join(iter(self.chunk, b"")))
        return Answer(*head, self.exactly(int(head.headers["content-length"])))

    def rest(self) -> bytes:
        """Everything until the server closes the connection, also by a reset."""
        data = b""
        with contextlib.suppress(ConnectionError):
            for piece in self.pieces():
                data += piece
        return data

    def pieces(self) -> Iterator[bytes]:
        """What comes until the server closes the connection; a reset is an error."""
        while piece := self._file.read1(65536):
            yield piece

    def _line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise Cut(line)
        return line[:-2]

    def exactly(self, count: int) -> bytes:
        """So many bytes.

        Raises:
            Cut: the connection ended before that.
        """
        data = self._file.read(count)
        if len(data) < count:
            raise Cut(data)
        return data

    # the end

    def reset(self) -> None:
        """Leave like a client that crashed."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def is_whole(error: Any, status: int, code: str, headers: Any) -> None:
    """Check the body and the headers of an answer that the host gave for a function.

    Args:
        error: the decoded body.
    """
    assert set(error) == {"code", "message", "msg", "request_id"}, error
    assert error["code"] == code, error
    assert error["message"] == error["msg"] != ""
    assert error["request_id"] == headers["sb-request-id"] != ""
    assert headers["sb-error-code"] == code
    assert headers["content-type"] == "application/json"
    exposed = {name.strip() for name in headers["access-control-expose-headers"].split(",")}
    assert {"sb-error-code", "sb-request-id"} <= exposed
    assert status == STATUS[code], f"{status} for {code}"


STATUS = {
    "BAD_REQUEST": 400,
    "NOT_FOUND": 404,
    "UNAUTHORIZED_NO_AUTH_HEADER": 401,
    "UNAUTHORIZED_INVALID_JWT_FORMAT": 401,
    "UNAUTHORIZED_LEGACY_JWT": 401,
    "UNAUTHORIZED_ASYMMETRIC_JWT": 401,
    "UNAUTHORIZED_JWT_EXPIRED": 401,
    "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM": 401,
    "BOOT_ERROR": 503,
    "WORKER_ERROR": 500,
    "INVALID_RESPONSE": 502,
    "IDLE_TIMEOUT": 504,
    "PAYLOAD_TOO_LARGE": 413,
    "HEADERS_TOO_LARGE": 431,
    "REQUEST_TIMEOUT": 408,
    "OVERLOADED": 429,
    "SHUTTING_DOWN": 503,
}
"""The contract's table, written down a second time on purpose."""
