"""A closed-loop HTTP client: every connection sends a request when it has its last answer.

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

import msgspec

from bench.load import Plan, Sample

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CODE = re.compile(rb'"code": ?"([A-Z_]+)"')
_PAUSE_S = 0.002  # before another try at a server that refuses
_PATIENCE_S = 20.0


class Connection:
    """One connection, and the request that is under way on it.

    Args:
        waiting: the open connections by descriptor, all of them in `epoll`.
    """

    def __init__(self, port: int, epoll: select.epoll, waiting: dict[int, Connection]) -> None:
        self._port, self._epoll, self._waiting = port, epoll, waiting
        self._socket: socket.socket | None = None
        self._received = b""
        self.began = 0.0

    def begin(self, payload: bytes) -> str:
        """Send a request; what failed, if something did."""
        self.began, self._received = time.monotonic(), b""
        try:
            (self._socket or self._connect()).sendall(payload)
        except OSError as error:
            return self.fail(error)
        return ""

    def _connect(self) -> socket.socket:
        self._socket = socket.create_connection(("127.0.0.1", self._port), _PATIENCE_S)
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
        if data.find(b"\r\nconnection: close", 0, head) >= 0:
            self.close()
        return "200" if data.startswith(b"200", 9) else _described(data)

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
    """All connections of a plan."""

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
            self._next(Connection(self._plan.port, self._epoll, self._waiting))
        while self._waiting:
            ready = self._epoll.poll(_PATIENCE_S)
            for fd, _ in ready:
                connection = self._waiting[fd]
                if outcome := connection.receive():
                    self._done(connection, outcome)
                    self._next(connection)
            if not ready:
                self._give_up()
        self._epoll.close()
        return self._samples

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


def main() -> None:
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.msgpack.encode(Client(plan).run()))


if __name__ == "__main__":
    main()
