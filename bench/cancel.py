"""Clients that leave: how long their handlers, and what those await, take to notice.

Both sides read the same clock (CLOCK_MONOTONIC): the bench right before it closes the
connection, the function when its work ends.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator

from bench import servers
from bench.servers import Server
from bench.table import Number
from bench.traffic import percentile, request

TIMES = 200
PATIENCE_S = 5.0
PLAIN_MS, STREAM_MS = 500.0, 250.0

# What each kind of request awaits, and how long its end may take.
KINDS = {
    "sleep": PLAIN_MS,
    "thread": PLAIN_MS,
    "llm": PLAIN_MS,
    "stream": STREAM_MS,
    "llm-stream": STREAM_MS,
}

WORK = """
import asyncio
import socket
import time
from runtime import ai, is_cancelled

report = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
model = ai.Session("scripted")


def tell(request, what):
    address = "127.0.0.1", int(request.query_params["port"])
    report.sendto(f"{what} {time.monotonic()}".encode(), address)


async def pieces(request):
    try:
        yield "begun"
        await asyncio.sleep(3600)
    finally:
        tell(request, "ended")


def waits(request):
    tell(request, "begun")
    while not is_cancelled():
        time.sleep(0.001)
    tell(request, "ended")


async def handler(request):
    match request.query_params["kind"]:
        case "stream":
            return pieces(request)
        case "llm-stream":
            return await model.run("hello", stream=True)
        case "llm":
            return await model.run("hello")
        case "thread":
            return await asyncio.to_thread(waits, request)
    tell(request, "begun")
    try:
        await asyncio.sleep(3600)
    finally:
        tell(request, "ended")
"""
PIECE = b'{"model":"scripted","response":"hello","done":false}\n'


def measure() -> list[Number]:
    """Each kind two hundred times; every second client leaves with a reset instead of a close."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(PATIENCE_S)
        env = f"AI_INFERENCE_API_HOST=http://127.0.0.1:{upstream.getsockname()[1]}\n"
        with (
            servers.project({"work": WORK}, servers.NO_MODELS, env) as root,
            servers.serve(root) as server,
        ):
            servers.eventually(lambda: server.metric()["work"]["state"] == "ready", "the function")
            return [number for kind in KINDS for number in distribution(kind, server, upstream)]


def distribution(kind: str, server: Server, upstream: socket.socket) -> Iterator[Number]:
    """What was measured for one kind of request."""
    depart = Departures(server, upstream)
    delays = [depart.measure(kind, leave) for _, leave in zip(range(TIMES), itertools.cycle(LEAVING))]
    noticed = [delay * 1000 for delay in delays if delay is not None]
    within = sum(delay <= KINDS[kind] for delay in noticed)
    what = f"{kind}: noticed within {KINDS[kind]:g} ms, of {TIMES}"
    yield Number(what=what, value=within, unit="", least=TIMES)
    if noticed:
        for percent in (50, 99, 100):
            name = f"{kind}: p{percent}" if percent < 100 else f"{kind}: the slowest"
            yield Number(what=name, value=percentile(noticed, percent), unit="ms")


def _close(client: socket.socket) -> None:
    client.close()


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


LEAVING = (_close, _reset)


class Departures:
    """Sends requests and leaves before they are answered.

    Args:
        upstream: where the function's calls of a model arrive.
    """

    def __init__(self, server: Server, upstream: socket.socket) -> None:
        self._server, self._upstream = server, upstream

    def measure(self, kind: str, leave: Callable[[socket.socket], None]) -> float | None:
        """Seconds from the client's leaving to the end of the work; None: it did not end."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as report:
            report.bind(("127.0.0.1", 0))
            report.settimeout(PATIENCE_S)
            client = self._ask(kind, report.getsockname()[1])
            try:
                if kind.startswith("llm"):
                    return self._upstream_closed(kind, client, leave)
                self._begun(kind, client, report)
                left = time.monotonic()
                leave(client)
                return float(report.recv(100).split()[1]) - left
            except TimeoutError:
                return None
            finally:
                client.close()

    def _ask(self, kind: str, port: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._server.port), PATIENCE_S)
        path = f"/functions/v1/work?kind={kind}&port={port}"
        client.sendall(request("GET", path, servers.token()))
        return client

    def _begun(self, kind: str, client: socket.socket, report: socket.socket) -> None:
        if kind == "stream":
            _until(client, b"begun")
        else:
            report.recv(100)

    def _upstream_closed(
        self, kind: str, client: socket.socket, leave: Callable[[socket.socket], None]
    ) -> float:
        """Play the model, and wait for the end of the call to it."""
        call, _ = self._upstream.accept()
        with call:
            call.settimeout(PATIENCE_S)
            _until(call, b"\r\n\r\n")
            if kind == "llm-stream":
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked"
                call.sendall(head + b"\r\n\r\n%x\r\n%s\r\n" % (len(PIECE), PIECE))
                _until(client, b"hello")
            left = time.monotonic()
            leave(client)
            while call.recv(65536):
                pass
            return time.monotonic() - left


def _until(connection: socket.socket, text: bytes) -> None:
    """Read up to this text."""
    data = b""
    while text not in data:
        piece = connection.recv(65536)
        if not piece:
            raise RuntimeError(f"the connection ended after {data!r}")
        data += piece
