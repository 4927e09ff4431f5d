"""An HTTP client: every connection sends a request when it has its last answer, or all at a fixed rate.

`python -m bench.client` takes a plan on stdin and writes samples to stdout. It shares no
interpreter with what it measures, and does as little as it can per request: it competes
for the cores as well.
"""

from __future__ import annotations

import itertools
import re
import select
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from bench.traffic import Plan, Sample

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CODE = re.compile(rb'"code": ?"([A-Z_]+)"')
_PAUSE_S = 0.002  # before another try at a server that refuses
_PATIENCE_S = 20.0


class Connection:
    """One connection, and the request that is under way on it.

    Args:
        waiting: the open connections by descriptor, all of them in `epoll`.
    """

    def __init__(self, plan: Plan, epoll: select.epoll, waiting: dict[int, Connection]) -> None:
        self._plan, self._epoll, self._waiting = plan, epoll, waiting
        self._socket: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._received = b""
        self.began = 0.0

    def begin(self, payload: bytes) -> str:
        """Send a request, or the first of it; what failed, if something did."""
        self.began, self._received = time.monotonic(), b""
        try:
            connection = self._socket or self._connect()
            self._unsent = memoryview(payload)[connection.send(payload, socket.MSG_DONTWAIT) :]
            if self._unsent:
                self._epoll.modify(connection, select.EPOLLIN | select.EPOLLOUT)
        except OSError as error:
            return self.fail(error)
        return ""

    def go_on(self) -> str:
        """Send more of a large request, now that there is room; what failed, if something did."""
        assert self._socket is not None
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent, socket.MSG_DONTWAIT) :]
            if not self._unsent:
                self._epoll.modify(self._socket, select.EPOLLIN)
        except OSError as error:
            return self.fail(error)
        return ""

    def _connect(self) -> socket.socket:
        self._socket = socket.create_connection(("127.0.0.1", self._plan.port), _PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)
        self._waiting[self._socket.fileno()] = self
        self._epoll.register(self._socket, select.EPOLLIN)
        return self._socket

    def receive(self) -> str:
        """Read what has come; the outcome, once the answer is complete."""
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except OSError as error:
            return self.fail(error)
        if not data:
            return self.fail(ConnectionResetError())
        self._received = data = self._received + data if self._received else data
        head = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data)
        if head < 0 or length is None or len(data) < head + 4 + int(length[1]):
            return ""
        if self._unsent or data.find(b"\r\nconnection: close", 0, head) >= 0:
            self.close()
        if not data.startswith(b"200", 9):
            return _described(data)
        return "200" if data.find(self._plan.answer, head) >= 0 else "200 (wrong)"

    def fail(self, error: OSError) -> str:
        """Give the connection up."""
        self.close()
        if isinstance(error, ConnectionRefusedError):
            time.sleep(_PAUSE_S)
            return "refused"
        return "timeout" if isinstance(error, TimeoutError) else "reset"

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._socket is not None:
            self._waiting.pop(self._socket.fileno(), None)
            self._socket.close()  # which takes it out of the epoll set
            self._socket = None


def _described(response: bytes) -> str:
    code = _CODE.search(response)
    outcome = f"{response[9:12].decode()} {code[1].decode() if code else ''}".rstrip()
    return f"{outcome} (not run)" if b"\r\nx-relay-error: true\r\n" in response else outcome


class Client:
    """All connections of a plan, each with a request at all times."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._payloads = itertools.cycle(plan.payloads)
        self._epoll = select.epoll()
        self._waiting: dict[int, Connection] = {}
        self._samples: list[Sample] = []
        self._left = plan.requests
        self._end = time.monotonic() + plan.seconds

    def run(self) -> list[Sample]:
        """Carry the plan out, in this process."""
        for _ in range(self._plan.connections):
            self._next(Connection(self._plan, self._epoll, self._waiting))
        while self._waiting:
            if not self._hear(_PATIENCE_S):
                self._give_up()
        self._epoll.close()
        return self._samples

    def _hear(self, seconds: float) -> bool:
        """Wait for what comes, and act on it; false: nothing came."""
        ready = self._epoll.poll(seconds)
        for fd, event in ready:
            connection = self._waiting[fd]
            outcome = connection.go_on() if event == select.EPOLLOUT else connection.receive()
            if outcome:
                self._done(connection, outcome)
                self._next(connection)
        return bool(ready)

    def _next(self, connection: Connection) -> None:
        """Begin another request, if there is to be one."""
        while self._left > 0 and time.monotonic() < self._end:
            self._left -= 1
            failed = connection.begin(next(self._payloads))
            if not failed:
                return
            self._done(connection, failed)
        connection.close()

    def _done(self, connection: Connection, outcome: str) -> None:
        self._samples.append(Sample(connection.began, time.monotonic() - connection.began, outcome))

    def _give_up(self) -> None:
        """Nothing came for too long: whoever waits has failed."""
        for connection in list(self._waiting.values()):
            self._done(connection, connection.fail(TimeoutError()))


class Steady(Client):
    """The connections of a plan that has a rate. A request that is due while all have one waits for it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._idle = [Connection(plan, self._epoll, self._waiting) for _ in range(plan.connections)]

    def run(self) -> list[Sample]:
        """Carry the plan out, in this process."""
        began = time.monotonic()
        for number in range(min(self._left, int(self._plan.rate * self._plan.seconds))):
            self._begin(began + number / self._plan.rate)
        self._wait_until(lambda: len(self._idle) == self._plan.connections)
        for connection in self._idle:
            connection.close()
        self._epoll.close()
        return self._samples

    def _begin(self, due: float) -> None:
        """Send a request when it is due; the time that it waited for a connection counts."""
        while self._idle and (early := due - time.monotonic()) > 0:
            self._hear(early)
        late = not self._idle
        self._wait_until(lambda: bool(self._idle))
        connection = self._idle.pop()
        failed = connection.begin(next(self._payloads))
        connection.began = due if late else connection.began
        if failed:
            self._done(connection, failed)
            self._next(connection)

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            if not self._hear(_PATIENCE_S):
                self._give_up()

    def _done(self, connection: Connection, outcome: str) -> None:
        if connection not in self._idle:  # else an idle connection was closed
            super()._done(connection, outcome)

    def _next(self, connection: Connection) -> None:
        if connection not in self._idle:
            self._idle.append(connection)

    def _give_up(self) -> None:
        for connection in set(self._waiting.values()).difference(self._idle):
            self._done(connection, connection.fail(TimeoutError()))
            self._next(connection)


def main() -> None:
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Plan)
    client = Steady(plan) if plan.rate else Client(plan)
    sys.stdout.buffer.write(msgspec.msgpack.encode(client.run()))


if __name__ == "__main__":
    main()
