"""Many WebSockets that say something in turn, at a fixed rate, whether they were answered or not.

`python -m bench.socketclient` takes a plan on stdin; it writes a line once every socket is
open, and at the end the latencies. It speaks just as much of the protocol as it needs.
"""

from __future__ import annotations

import select
import socket
import sys
import time

import msgspec

SIZE = 32
_HEADER = bytes([0x81, 0x80 | SIZE, 0, 0, 0, 0])  # a text; a mask of zeros leaves it as it is
_ANSWER = 2 + SIZE
_PATIENCE_S = 20.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to open, and how much to say.

    Attributes:
        handshake: the bytes of the request that opens a socket.
        rate: messages per second, of all sockets together.
    """

    port: int
    handshake: bytes
    sockets: int
    rate: float
    seconds: float


class Socket:
    """One connection, and when what is not answered yet was said."""

    def __init__(self, plan: Plan) -> None:
        self.connection = socket.create_connection(("127.0.0.1", plan.port), _PATIENCE_S)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.sendall(plan.handshake)
        self._received = self._opened()
        self.said: list[float] = []

    def _opened(self) -> bytes:
        """What came after the head of the answer."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.connection.recv(65536)
            if not piece:
                raise RuntimeError("the connection was closed during the handshake")
            data += piece
        if not data.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"the handshake was refused: {data.decode('utf-8', 'replace')}")
        return data.partition(b"\r\n\r\n")[2]

    def say(self, number: int) -> None:
        self.said.append(time.monotonic())
        self.connection.sendall(_HEADER + str(number).zfill(SIZE).encode())

    def hear(self) -> list[float]:
        """How long each answer took that has come, in seconds."""
        data = self.connection.recv(65536)
        if not data:
            raise RuntimeError("a socket was closed")
        self._received += data
        whole = len(self._received) // _ANSWER
        self._received = self._received[whole * _ANSWER :]
        heard, self.said = self.said[:whole], self.said[whole:]
        now = time.monotonic()
        return [now - said for said in heard]


class Crowd:
    """Every socket of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sockets = [Socket(plan) for _ in range(plan.sockets)]
        self._by_fd = {each.connection.fileno(): each for each in self._sockets}
        self._epoll = select.epoll()
        for fd in self._by_fd:
            self._epoll.register(fd, select.EPOLLIN)

    def talk(self) -> list[float]:
        """Carry the plan out; the latencies in seconds."""
        latencies: list[float] = []
        began = time.monotonic()
        total = int(self._plan.rate * self._plan.seconds)
        said = 0
        while said < total:
            while said < min(total, (time.monotonic() - began) * self._plan.rate):
                self._sockets[said % len(self._sockets)].say(said)
                said += 1
            due = began + (said + 1) / self._plan.rate
            latencies += self._hear(max(0.0, due - time.monotonic()))
        end = time.monotonic() + _PATIENCE_S
        while len(latencies) < total and time.monotonic() < end:
            latencies += self._hear(0.1)
        if len(latencies) < total:
            raise RuntimeError(f"{total - len(latencies)} messages were not answered")
        return latencies

    def _hear(self, seconds: float) -> list[float]:
        return [latency for fd, _ in self._epoll.poll(seconds) for latency in self._by_fd[fd].hear()]


def main() -> None:
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Plan)
    crowd = Crowd(plan)
    print("open", flush=True)
    sys.stdout.buffer.write(msgspec.msgpack.encode(crowd.talk()))


if __name__ == "__main__":
    main()
