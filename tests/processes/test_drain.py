"""SIGTERM: what is in flight is finished, streams are ended, and the server leaves."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance.wire import Cut, Wire
from tests.running import Server, eventually, project

SOURCE = """
import asyncio

async def endless():
    try:
        while True:
            yield "data: tick\\n\\n"
            await asyncio.sleep(0.2)
    finally:
        print("ended: stream")

async def handler(request):
    what = request.url.path.rpartition("/")[2]
    if what == "stream":
        return endless()
    await asyncio.sleep(1)
    return "done"

async def websocket(ws):
    await ws.accept()
    await ws.receive()
"""
STREAMS, REQUESTS = 50, 20
CONFIG = "[ai]\npreload = []\n[functions.busy]\nmax_workers = 1\nconcurrency = 100\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(project(tmp_path, {"busy": SOURCE}, CONFIG)).wait_ready()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def in_flight(server: Server) -> int:
    count: int = server.metric()["functions"]["busy"]["in_flight"]
    return count


def stream_of(server: Server) -> Wire:
    """A response that has begun."""
    wire = Wire(server)
    wire.ask("GET", "/functions/v1/busy/stream")
    assert wire.head().status == 200
    assert wire.chunk()
    return wire


def broken(wire: Wire) -> bool:
    """Whether a stream ended, and not like a whole one."""
    try:
        while wire.chunk():
            pass
    except (Cut, ConnectionError, ValueError):
        return True
    return False


def test_requests_are_finished_and_streams_ended_within_the_time_for_it(server: Server) -> None:
    with ExitStack() as stack, server.client() as client, ThreadPoolExecutor(REQUESTS) as threads:
        streams = [stream_of(server) for _ in range(STREAMS)]
        for wire in streams:
            stack.callback(wire.close)
        answers = [threads.submit(client.get, "/busy/second") for _ in range(REQUESTS)]
        eventually(lambda: in_flight(server) == STREAMS + REQUESTS, "the requests")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [(answer.result().status_code, answer.result().text) for answer in answers] == [
            (200, "done")
        ] * REQUESTS
        with ThreadPoolExecutor(STREAMS) as readers:
            ends = list(readers.map(broken, streams))
        status = server.process.wait(20)
        seconds = time.monotonic() - began
    assert ends == [True] * STREAMS
    assert status == 0
    assert seconds <= 10.5
    server.stop()
    assert server.log.count("ended: stream") == STREAMS
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log


def test_a_server_with_nothing_in_flight_leaves_at_once(server: Server) -> None:
    with server.client() as client:
        assert client.get("/busy/second").text == "done"
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
