"""Requests at a fixed rate, whether they were answered or not.

`python -m bench.flood` takes a plan on stdin and writes an answer for each request. What cannot
be sent on an open connection gets a new one, so a server that is late cannot make it wait.
"""

from __future__ import annotations

import re
import select
import socket
import subprocess
import sys
import time
from collections import deque

import msgspec

from bench.traffic import ROOT, request

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *\d+\r\n", re.IGNORECASE)
_PATIENCE_S = 30.0
_HERE = b"NUMBER"
_GREETING = request("GET", "/_internal/health")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to send.

    Attributes:
        payload: a request; NUMBER in it becomes the request's number.
        connections: that are open from the start, each after one health check.
    """

    port: int
    payload: bytes
    rate: float
    seconds: float
    connections: int = 1000


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request, in the order of sending.

    Attributes:
        at: when it was sent (CLOCK_MONOTONIC).
        status: 0: none came; then `failed` says why.
        retry_after: the header was there.
        fresh: the connection had to be opened for it, so that others may have been faster.
    """

    at: float
    seconds: float
    status: int
    retry_after: bool = False
    fresh: bool = False
    body: bytes = b""
    failed: str = ""


class Connection:
    """One connection, and the number of the request that is under way on it."""

    def __init__(self, port: int, *, fresh: bool = False) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number, self.at = -1, 0.0
        self._received, self._fresh = b"", fresh

    def greet(self) -> None:
        """Have it accepted."""
        self.send(-1, _GREETING)
        while self.receive() is None:
            pass

    def send(self, number: int, payload: bytes) -> None:
        self.number, self.at, self._received = number, time.monotonic(), b""
        self.socket.sendall(payload.replace(_HERE, b"%d" % number))

    def receive(self) -> Answer | None:
        """What has come; None: not all of it yet.

        Raises:
            OSError: it was reset, or closed without an answer.
        """
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionAbortedError("closed")
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length[1]):
            return None
        seconds, hint = time.monotonic() - self.at, _RETRY_AFTER.search(head + b"\r\n") is not None
        fresh, self._fresh = self._fresh, False
        return Answer(self.at, seconds, int(head[9:12]), hint, fresh, body)


class Flood:
    """All requests of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._answers: dict[int, Answer] = {}
        self._busy: dict[int, Connection] = {}
        self._free = deque(Connection(plan.port) for _ in range(plan.connections))
        self._epoll = select.epoll()
        for connection in self._free:
            connection.greet()
            self._epoll.register(connection.socket, select.EPOLLIN)

    def run(self) -> list[Answer]:
        """Carry the plan out."""
        plan, began, sent = self._plan, time.monotonic(), 0
        total = int(plan.rate * plan.seconds)
        while sent < total:
            while sent < min(total, (time.monotonic() - began) * plan.rate):
                self._send(sent)
                sent += 1
            self._receive(max(0.0, began + (sent + 1) / plan.rate - time.monotonic()))
        end = time.monotonic() + _PATIENCE_S
        while self._busy and time.monotonic() < end:
            self._receive(0.1)
        for connection in tuple(self._busy.values()):
            self._fail(connection, "timeout")
        for connection in self._free:
            connection.socket.close()
        self._epoll.close()
        return [self._answers[number] for number in range(total)]

    def _send(self, number: int) -> None:
        try:
            connection = self._free.popleft() if self._free else self._another()
        except OSError as error:
            self._answers[number] = Answer(time.monotonic(), 0.0, 0, failed=type(error).__name__)
            return
        self._busy[connection.socket.fileno()] = connection
        try:
            connection.send(number, self._plan.payload)
        except OSError as error:
            self._fail(connection, type(error).__name__)

    def _another(self) -> Connection:
        connection = Connection(self._plan.port, fresh=True)
        self._epoll.register(connection.socket, select.EPOLLIN)
        return connection

    def _receive(self, seconds: float) -> None:
        for fd, _ in self._epoll.poll(seconds):
            connection = self._busy.get(fd)
            if connection is None:
                self._forget(fd)
            else:
                self._hear(connection)

    def _hear(self, connection: Connection) -> None:
        try:
            answer = connection.receive()
        except OSError as error:
            self._fail(connection, type(error).__name__)
            return
        if answer is not None:
            self._answers[connection.number] = answer
            del self._busy[connection.socket.fileno()]
            self._free.append(connection)

    def _forget(self, fd: int) -> None:
        """A connection that has nothing under way was closed."""
        for connection in tuple(self._free):
            if connection.socket.fileno() == fd:
                self._free.remove(connection)
                connection.socket.close()

    def _fail(self, connection: Connection, why: str) -> None:
        at = connection.at
        self._answers[connection.number] = Answer(at, time.monotonic() - at, 0, failed=why)
        del self._busy[connection.socket.fileno()]
        connection.socket.close()


def flood(plan: Plan) -> list[Answer]:
    """Carry out a plan, in a process of its own."""
    command = [sys.executable, "-m", "bench.flood"]
    done = subprocess.run(
        command, cwd=ROOT, input=msgspec.msgpack.encode(plan), stdout=subprocess.PIPE, check=True
    )
    return msgspec.msgpack.decode(done.stdout, type=list[Answer])


def main() -> None:
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.msgpack.encode(Flood(plan).run()))


if __name__ == "__main__":
    main()
