"""500 clients that send a byte of a head per second, 500 that say nothing, and a body of 1 GB in chunks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import uvloop

from bench import servers
from bench.servers import Server
from bench.table import Number
from bench.traffic import percentile, request

DRIBBLERS = SILENT = 500
HEAD_S, LATE_S = 10.0, 1.0  # when they are sent away, and how much sooner or later that may be
DRIBBLE_S = 1.0
HEALTH_MS = 50.0
PROBE_S = 0.02
BODY, CHUNK = 1 << 30, 1 << 16
GROWTH_MB = 16.0

COUNT = """
async def handler(request):
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return size
"""
CONFIG = f"{servers.NO_MODELS}\n[functions.count]\nmax_body_mb = 0\n"
_HEAD = b"GET /functions/v1/count HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000
_HEALTH = request("GET", "/_internal/health")


def measure() -> list[Number]:
    """Clients that are slow, with somebody asking for the server's health meanwhile, and then the body."""
    with servers.project({"count": COUNT}, CONFIG) as root, servers.serve(root) as server:
        servers.eventually(lambda: server.metric()["count"]["state"] == "ready", "the function")
        quiet = uvloop.run(_health(server.port, 3.0))
        crowd = uvloop.run(gather(server.port))
        return [*_told(crowd, quiet), _body(server)]


class Crowd:
    """Slow clients.

    Attributes:
        ended: after how many seconds each was answered, and with which status, or "closed".
        health: milliseconds of the answers that somebody else got meanwhile.
    """

    def __init__(self) -> None:
        self.ended: dict[str, list[tuple[float, str]]] = {"dribbling": [], "silent": []}
        self.health: list[float] = []


async def gather(port: int) -> Crowd:
    """Let them come, and wait until the last of them was sent away."""
    crowd = Crowd()
    kinds = ["dribbling"] * DRIBBLERS + ["silent"] * SILENT
    probing = asyncio.create_task(_health(port, HEAD_S + 3 * LATE_S))
    async with asyncio.timeout(HEAD_S * 3), asyncio.TaskGroup() as group:
        for kind in kinds:
            group.create_task(_slow(port, crowd, kind))
            await asyncio.sleep(0.001)
    crowd.health = await probing
    return crowd


async def _slow(port: int, crowd: Crowd, kind: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    sending = asyncio.create_task(_dribble(writer)) if kind == "dribbling" else None
    received = b""
    with contextlib.suppress(OSError):
        received = await reader.read(4096)
    crowd.ended[kind].append((time.monotonic() - began, received[9:12].decode() or "closed"))
    if sending is not None:
        sending.cancel()
    writer.transport.abort()


async def _dribble(writer: asyncio.StreamWriter) -> None:
    for byte in _HEAD:
        writer.write(bytes([byte]))
        await asyncio.sleep(DRIBBLE_S)


async def _health(port: int, seconds: float) -> list[float]:
    """Milliseconds of each answer of `/_internal/health`, one after the other, for so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        writer.write(_HEALTH)
        if not (await reader.readuntil(b'{"message":"ok"}')).startswith(b"HTTP/1.1 200 "):
            raise RuntimeError("it is not healthy")
        taken.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(PROBE_S)
    writer.close()
    return taken


def _told(crowd: Crowd, quiet: list[float]) -> Iterator[Number]:
    for kind, ended in crowd.ended.items():
        answers = Counter(answer for _, answer in ended)
        what = ", ".join(f"{count} {answer}" for answer, count in answers.items())
        yield Number(what=f"{kind}: answered 408 ({what})", value=answers["408"], unit="", least=len(ended))
        yield Number(what=f"{kind}: the first", value=min(ended)[0], unit="s", least=HEAD_S - LATE_S)
        yield Number(what=f"{kind}: the last", value=max(ended)[0], unit="s", most=HEAD_S + LATE_S)
    health = percentile(crowd.health, 99), percentile(quiet, 99)
    yield Number(what="health p99", value=health[0], unit="ms", baseline=health[1], most=HEALTH_MS)


def _body(server: Server) -> Number:
    """By how much the gateway grows, at most, while it passes a large body on."""
    gateway = psutil.Process(server.pid_of("fn-gateway"))
    before = peak = gateway.memory_info().rss
    with ThreadPoolExecutor(1) as thread:
        upload = thread.submit(_upload, server.port)
        while not upload.done():
            peak = max(peak, gateway.memory_info().rss)
            time.sleep(0.02)
        upload.result()
    return Number(what="gateway more, 1 GB of body", value=(peak - before) / 1e6, unit="MB", most=GROWTH_MB)


def _upload(port: int) -> None:
    head = (
        request("POST", "/functions/v1/count", servers.token())[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n%s\r\n" % (CHUNK, bytes(CHUNK))
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(head)
        for _ in range(BODY // CHUNK):
            client.sendall(chunk)
        client.sendall(b"0\r\n\r\n")
        answer = client.recv(65536)
    if not answer.endswith(str(BODY).encode()):
        raise RuntimeError(f"the body was not counted: {answer!r}")
