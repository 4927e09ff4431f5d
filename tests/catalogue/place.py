"""Where the functions are: a server of ours, or the one that `--base-url` names."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.conformance.wire import TIMEOUT_S, Wire
from tests.running import Server

ROOM_S = 5.0
"""What a busy machine may add to a time that is measured."""


class Serve(Protocol):
    """Starts a server with some of the functions."""

    def __call__(self, *functions: str, config: str = "") -> Server: ...


class Place:
    """An address of functions, and the keys to it.

    Args:
        url: of the functions: scheme, host, port and prefix.
        server: the server of ours behind it; None: it is another's.
    """

    def __init__(self, url: str, anon: str, service: str = "", server: Server | None = None) -> None:
        self.url, self.anon, self.service, self._server = url.rstrip("/"), anon, service, server
        self.prefix = urlsplit(self.url).path

    @property
    def server(self) -> Server:
        """Ours, for what only its log or its processes tell; the test is skipped where it is another's."""
        if self._server is None:
            pytest.skip("needs the log or the processes of a server of its own")
        return self._server

    def client(self, **headers: str) -> httpx2.Client:
        """With the anon key; its base URL is the functions'."""
        own = {"authorization": f"Bearer {self.anon}"} | headers
        return httpx2.Client(base_url=self.url, headers=own, timeout=30.0)

    def wire(self) -> RawWire:
        """A connection on which the test sends the bytes."""
        return RawWire(self)

    @contextlib.contextmanager
    def socket(self, path: str) -> Iterator[ClientConnection]:
        """An open WebSocket."""
        url = f"ws{self.url.removeprefix('http')}{path}?jwt={self.anon}"
        with connect(url, proxy=None, open_timeout=TIMEOUT_S) as opened:
            yield opened


class RawWire(Wire):
    """A `Wire` to a place, also through TLS."""

    def __init__(self, place: Place) -> None:
        parts = urlsplit(place.url)
        assert parts.hostname is not None
        secure = parts.scheme == "https"
        self.sock = socket.create_connection(
            (parts.hostname, parts.port or (443 if secure else 80)), TIMEOUT_S
        )
        if secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=parts.hostname)
        self._file = self.sock.makefile("rb")
        self._token = place.anon
        self._host, self._prefix = parts.netloc, place.prefix

    def call(self, method: str, path: str, *headers: str, body: bytes = b"", length: int = 0) -> None:
        """Send a request to a function; `length` without a body: the body follows."""
        lines = (f"Host: {self._host}", *headers)
        self.send(self.head_of(method, self._prefix + path, *lines, length=length or len(body)) + body)


def told(response: httpx2.Response, status: int, code: str) -> str:
    """Check an error of the host's own; its message."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:200]}"
    error = response.json()
    assert set(error) == {"code", "message", "msg", "request_id"}
    assert error["code"] == response.headers["sb-error-code"] == code
    assert error["request_id"] == response.headers["sb-request-id"]
    message: str = error["message"]
    return message


def over(response: httpx2.Response, key: str) -> None:
    """Check the answer to a request that went over a limit, which names the limit's key."""
    assert key in told(response, 546, "WORKER_LIMIT")


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Check that it took no longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"it took {took:.2f} s"
