"""When the client leaves, the work for it ends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conformance.wire import Wire
from tests.running import Server, eventually, project, serving

WAITS = """
import asyncio
import contextlib
from runtime import StreamingResponse

async def endless():
    try:
        yield "begun"
        await asyncio.sleep(3600)
    finally:
        print("ended: stream")

async def handler(request):
    what = request.url.path.rpartition("/")[2]
    if what == "fine":
        return "fine"
    if what == "stream":
        return endless()
    if what == "response":
        return StreamingResponse(endless(), media_type="text/event-stream")
    print("waiting:", what)
    try:
        if what == "upload":
            async for piece in request.stream():
                pass
        elif what == "disconnect":
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
        elif what == "group":
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(asyncio.sleep(3600))
        else:
            await asyncio.sleep(3600)
    finally:
        print("ended:", what)
"""
UPSTREAM = """
import httpx2
from runtime import StreamingResponse

client = httpx2.AsyncClient(timeout=None)

async def relayed(url):
    async with client.stream("GET", url) as response:
        async for piece in response.aiter_bytes():
            yield piece

async def handler(request):
    url = request.query_params["url"]
    if request.url.path.endswith("/stream"):
        return relayed(url)
    return (await client.get(url)).text
"""
BLOCKS = """
import os
import time

def handler(request):
    if request.url.path.endswith("/fine"):
        return "fine"
    print("blocking")
    while not os.path.exists(request.query_params["until"]):
        time.sleep(0.005)
    print("unblocked")
"""
CONFIG = """
[ai]
preload = []
[functions.blocks]
concurrency = 2
max_workers = 1
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"waits": WAITS, "upstream": UPSTREAM, "blocks": BLOCKS}
    with serving(project(tmp_path_factory.mktemp("cancellation"), functions, CONFIG)) as server:
        yield server


def counted(server: Server, name: str, *what: str) -> int:
    """Requests of a function that are in these states."""
    function = server.metric()["functions"][name]
    return sum(int(function[state]) for state in what)


def in_flight(server: Server, name: str) -> int:
    return counted(server, name, "in_flight")


@pytest.fixture(params=["close", "reset"])
def leave(request: pytest.FixtureRequest) -> Callable[[Wire], None]:
    """Ends a connection in an orderly way, or like a client that crashed."""
    return lambda wire: getattr(wire, request.param)()


Leave = Callable[[Wire], None]


# --- coroutines ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sleep", "group", "disconnect"])
@pytest.mark.parametrize("body", [b"", b"a body", b"x" * 300_000])
def test_a_waiting_handler_is_cancelled(
    wire: Wire, server: Server, leave: Leave, what: str, body: bytes
) -> None:
    before = server.log.count(f"waiting: {what}"), server.log.count(f"ended: {what}")
    wire.ask("POST", f"/functions/v1/waits/{what}", body=body)
    server.wait_for_log(f"waiting: {what}", before[0] + 1)
    leave(wire)
    server.wait_for_log(f"ended: {what}", before[1] + 1)
    eventually(lambda: in_flight(server, "waits") == 0, "its place")


def test_a_handler_that_waits_for_the_rest_of_an_upload_is_cancelled(
    wire: Wire, server: Server, leave: Leave
) -> None:
    before = server.log.count("waiting: upload"), server.log.count("ended: upload")
    wire.send(wire.head_of("POST", "/functions/v1/waits/upload", length=1000) + b"half of it")
    server.wait_for_log("waiting: upload", before[0] + 1)
    leave(wire)
    server.wait_for_log("ended: upload", before[1] + 1)


@pytest.mark.parametrize("what", ["stream", "response"])
def test_a_stream_that_waits_is_cancelled(wire: Wire, server: Server, leave: Leave, what: str) -> None:
    before = server.log.count("ended: stream")
    wire.ask("GET", f"/functions/v1/waits/{what}")
    assert wire.head().status == 200
    assert wire.chunk() == b"begun"
    leave(wire)
    server.wait_for_log("ended: stream", before + 1)


@pytest.mark.parametrize("what", ["sleep", "stream"])
def test_every_one_of_fifty_departures_is_noticed(
    dial: Callable[[], Wire], server: Server, leave: Leave, what: str
) -> None:
    """`python -m bench cancel` says how soon."""
    before = server.log.count(f"ended: {what}")
    for number in range(50):
        wire = dial()
        wire.ask("GET", f"/functions/v1/waits/{what}")
        if what == "stream":
            assert wire.head().status == 200
            assert wire.chunk() == b"begun"
        else:
            eventually(lambda: in_flight(server, "waits") == 1, "the request")
        leave(wire)
        server.wait_for_log(f"ended: {what}", before + number + 1)
    eventually(lambda: in_flight(server, "waits") == 0, "their places")


def test_a_departure_is_no_error_and_hurts_nobody(
    wire: Wire, server: Server, client: httpx2.Client, leave: Leave
) -> None:
    pids = server.metric()["functions"]["waits"]["pids"]
    wire.ask("GET", "/functions/v1/waits/sleep", "sb-request-id: departs")
    eventually(lambda: in_flight(server, "waits") == 1, "the request")
    leave(wire)
    server.wait_for_log("[departs] CLIENT_CLOSED")
    assert client.get("/waits/fine").text == "fine"
    assert server.metric()["functions"]["waits"]["pids"] == pids
    assert "ERROR" not in server.log
    assert "Traceback" not in server.log


# --- what a handler awaits -----------------------------------------------------------------


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    """A listening socket that the function is sent to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def taken(listener: socket.socket) -> socket.socket:
    """The function's connection, its request read."""
    connection, _ = listener.accept()
    connection.settimeout(20)
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    return connection


def test_an_upstream_call_is_closed(wire: Wire, upstream: socket.socket, leave: Leave) -> None:
    wire.ask("GET", f"/functions/v1/upstream/call?url=http://127.0.0.1:{upstream.getsockname()[1]}/")
    with taken(upstream) as connection:
        leave(wire)
        assert connection.recv(1) == b""


def test_an_upstream_stream_is_closed(wire: Wire, upstream: socket.socket, leave: Leave) -> None:
    wire.ask("GET", f"/functions/v1/upstream/stream?url=http://127.0.0.1:{upstream.getsockname()[1]}/")
    with taken(upstream) as connection:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert wire.head().status == 200
        assert wire.chunk() == b"hello"
        leave(wire)
        assert connection.recv(1) == b""


# --- threads -------------------------------------------------------------------------------


def test_threads_run_to_their_end_and_keep_their_places_until_then(
    dial: Callable[[], Wire], server: Server, client: httpx2.Client, shared_folder: Path, leave: Leave
) -> None:
    before = server.log.count(" blocking"), server.log.count(" unblocked")
    until = shared_folder / "until"
    for number in range(6):
        wire = dial()
        wire.ask("GET", f"/functions/v1/blocks?until={until}")
        if number < 2:
            server.wait_for_log(" blocking", before[0] + number + 1)
        else:
            eventually(lambda: counted(server, "blocks", "queued") == 1, "its place in the queue")
        leave(wire)
        eventually(lambda: counted(server, "blocks", "in_flight", "queued") == 0, "its end")
    until.touch()
    server.wait_for_log(" unblocked", before[1] + 2)
    assert client.get("/blocks/fine").text == "fine"
    assert server.log.count(" blocking") == before[0] + 2
    assert "ERROR" not in server.log
