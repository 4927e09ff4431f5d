"""500 WebSockets open at once that echo at a fixed rate; baseline: the same echo straight in uvicorn."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

import msgspec
import psutil

from bench import servers
from bench.servers import Server
from bench.socketclient import Plan
from bench.table import Number
from bench.traffic import ROOT, percentile

SOCKETS = 500
RATE = 1000.0  # messages per second, of all sockets together
SECONDS = 3.0
ROUNDS = 3

ECHO = """
async def handler(request):
    return "dial a WebSocket"


async def websocket(ws):
    await ws.accept()
    async for text in ws.iter_text():
        await ws.send_text(text)
"""
CONFIG = f"{servers.NO_MODELS}\n[functions.echo]\nconcurrency = {2 * SOCKETS}\n"


def measure() -> list[Number]:
    """Latencies in turns, a round of ours after a round of the baseline; memory in the first."""
    with (
        servers.project({"echo": ECHO}, CONFIG) as root,
        servers.serve(root) as ours,
        servers.baseline() as plain,
    ):
        servers.eventually(lambda: ours.metric()["echo"]["state"] == "ready", "the function")
        base_memory, our_memory = Memory(plain), Memory(ours)
        rounds = [(echoes(plain, base_memory.look), echoes(ours, our_memory.look)) for _ in range(ROUNDS)]
    base, mine = ([latency for each in column for latency in each] for column in zip(*rounds, strict=True))
    return [
        latency("p50", statistics.median(mine), statistics.median(base)),
        latency("p99", percentile(mine, 99), percentile(base, 99), most=20.0),
        latency("the slowest", max(mine), max(base)),
        Number(
            what="memory per socket, gateway",
            value=our_memory.of("fn-gateway"),
            unit="KB",
            baseline=base_memory.of(),
        ),
        Number(what="memory per socket, worker", value=our_memory.of("fn:echo"), unit="KB"),
    ]


def latency(what: str, ours: float, base: float, most: float | None = None) -> Number:
    return Number(
        what=f"{SOCKETS} sockets, {RATE:g} echoes/s: {what}",
        value=ours * 1000,
        unit="ms",
        baseline=base * 1000,
        most=most,
    )


class Memory:
    """What a server's processes hold before the first sockets are open, and then."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = self._now()
        self._then: dict[str, int] = {}

    def _now(self) -> dict[str, int]:
        """Bytes of each process, by name."""
        return {name: psutil.Process(pid).memory_info().rss for pid, name in self._server.family().items()}

    def look(self) -> None:
        """The sockets are open; only the first time counts, later ones find memory that was freed."""
        self._then = self._then or self._now()

    def of(self, name: str = "") -> float:
        """KB that a socket costs a process; without a name, the only one there is."""
        name = name or next(iter(self._then))
        return (self._then[name] - self._before[name]) / 1024 / SOCKETS


def echoes(server: Server, opened: Callable[[], None]) -> list[float]:
    """The latencies of a round in seconds, as a process of its own measures them."""
    plan = Plan(port=server.port, handshake=handshake(), sockets=SOCKETS, rate=RATE, seconds=SECONDS)
    command = [sys.executable, "-m", "bench.socketclient"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        with client.stdin:
            client.stdin.write(msgspec.msgpack.encode(plan))
        if client.stdout.readline() == b"open\n":
            opened()
        said = client.stdout.read()
    if client.returncode:
        raise RuntimeError(f"the client failed; the server printed\n{server.log}")
    return msgspec.msgpack.decode(said, type=list[float])


def handshake() -> bytes:
    """The bytes that open a WebSocket, with the anon key."""
    lines = [
        "GET /functions/v1/echo HTTP/1.1",
        "host: localhost",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        f"authorization: Bearer {servers.token()}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()
