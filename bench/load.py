"""A closed-loop HTTP client: every connection sends a request when it has its last answer.

It runs in a process of its own (`python -m bench.load`: a plan on stdin, samples on stdout),
so that it shares no interpreter with what it measures, and does as little as it can per
request: it is one of the things that compete for the cores.
"""

from __future__ import annotations

import re
import select
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CODE = re.compile(rb'"code": ?"([A-Z_]+)"')
_PAUSE_S = 0.002  # before another try at a server that refuses
_PATIENCE_S = 20.0

ROOT = Path(__file__).absolute().parent.parent


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. It ends after so many seconds or requests, whichever comes first.

    Attributes:
        payload: the request's bytes, head and body, sent again and again.
    """

    port: int
    payload: bytes
    connections: int = 1
    seconds: float = 60.0
    requests: int = sys.maxsize


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request: when it was sent (CLOCK_MONOTONIC), how long it took, and what came of it.

    Attributes:
        outcome: "200"; a status and an error's code; "refused", "reset" or "timeout".
    """

    at: float
    seconds: float
    outcome: str = "200"

    @property
    def ok(self) -> bool:
        return self.outcome == "200"


def request(method: str, path: str, token: str = "", body: bytes = b"") -> bytes:
    """A request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "accept: */*", "user-agent: bench"]
    lines += [f"authorization: Bearer {token}"] if token else []
    lines += ["content-type: application/json", f"content-length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


class Load:
    """A running client process."""

    def __init__(self, plan: Plan) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], cwd=ROOT, stdin=pipe, stdout=pipe
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.msgpack.encode(plan))
        self._process.stdin.close()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def samples(self) -> list[Sample]:
        """Wait for its end; everything it sent, in the order of the answers."""
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            return msgspec.msgpack.decode(stdout.read(), type=list[Sample])


def drive(plan: Plan) -> list[Sample]:
    """Carry out a plan, in a process of its own."""
    with Load(plan) as load:
        return load.samples()


def rate(samples: list[Sample]) -> float:
    """Requests per second.

    Raises:
        RuntimeError: one of them failed, so that the rate means nothing.
    """
    outcomes = Counter(sample.outcome for sample in samples)
    if set(outcomes) != {"200"}:
        raise RuntimeError(f"requests failed: {dict(outcomes)}")
    ends = [sample.at + sample.seconds for sample in samples]
    return len(samples) / (max(ends) - samples[0].at)


def median_us(samples: Iterable[Sample]) -> float:
    """The median time of a request in microseconds."""
    return statistics.median(sample.seconds for sample in samples) * 1e6


class _Connection:
    """One connection, and the request that is under way on it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.socket: socket.socket | None = None
        self.began = 0.0
        self._received = b""

    def begin(self) -> str:
        """Send the request; what failed, if something did."""
        self.began, self._received = time.monotonic(), b""
        try:
            if self.socket is None:
                self.socket = socket.create_connection(("127.0.0.1", self._plan.port), _PATIENCE_S)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.socket.settimeout(None)
            self.socket.sendall(self._plan.payload)
        except OSError as error:
            return self.fail(error)
        return ""

    def receive(self) -> str:
        """Read what has come; the outcome, once the answer is complete."""
        assert self.socket is not None
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            return self.fail(error)
        if not data:
            return self.fail(ConnectionResetError())
        self._received = data = self._received + data if self._received else data
        head = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data)
        if head < 0 or length is None or len(data) < head + 4 + int(length[1]):
            return ""
        if data.startswith(b"200", 9):
            return "200"
        return _described(data)

    def fail(self, error: OSError) -> str:
        """Give the connection up."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        if isinstance(error, ConnectionRefusedError):
            time.sleep(_PAUSE_S)
            return "refused"
        return "timeout" if isinstance(error, TimeoutError) else "reset"


def _described(response: bytes) -> str:
    code = _CODE.search(response)
    return f"{response[9:12].decode()} {code[1].decode() if code else ''}".rstrip()


class _Client:
    """All connections of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._samples: list[Sample] = []
        self._left = plan.requests
        self._end = time.monotonic() + plan.seconds

    def run(self) -> list[Sample]:
        for _ in range(self._plan.connections):
            self._next(_Connection(self._plan))
        while self._open:
            ready = self._epoll.poll(_PATIENCE_S)
            for fd, _ in ready:
                connection = self._open[fd]
                outcome = connection.receive()
                if outcome:
                    if connection.socket is None:
                        del self._open[fd]  # closing it took it out of the epoll set
                    self._done(connection, outcome)
                    self._next(connection)
            if not ready:
                self._give_up()
        return self._samples

    def _next(self, connection: _Connection) -> None:
        """Begin another request on a connection, if there is to be one."""
        while self._left > 0 and time.monotonic() < self._end:
            self._left -= 1
            known = connection.socket
            failed = connection.begin()
            if not failed and connection.socket is not None:
                if connection.socket is not known:
                    self._open[connection.socket.fileno()] = connection
                    self._epoll.register(connection.socket, select.EPOLLIN)
                return
            if known is not None:
                self._open = {fd: other for fd, other in self._open.items() if other is not connection}
            self._done(connection, failed)
        if connection.socket is not None:
            del self._open[connection.socket.fileno()]
            connection.socket.close()

    def _done(self, connection: _Connection, outcome: str) -> None:
        self._samples.append(Sample(connection.began, time.monotonic() - connection.began, outcome))

    def _give_up(self) -> None:
        """Nothing came for too long: whoever waits has failed."""
        for connection in list(self._open.values()):
            self._done(connection, connection.fail(TimeoutError()))
        self._open.clear()


def main() -> None:
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_Client(plan).run()))


if __name__ == "__main__":
    main()
