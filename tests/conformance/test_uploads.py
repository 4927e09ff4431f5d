"""Uploads larger than anybody wants to have in memory."""

from __future__ import annotations

import fcntl
import hashlib
import sys
import termios
import threading
from collections.abc import Callable, Iterator

import httpx2
import psutil
import pytest

from tests.conformance.test_streaming import push
from tests.conformance.wire import Wire, is_whole
from tests.running import Server, eventually, project, serving

MB = 1_000_000
UPLOAD = """
import asyncio
import hashlib

steps = asyncio.Semaphore(0)
state = {"taken": 0, "in_flight": 0}

async def handler(request):
    match request.url.path.rpartition("/")[2]:
        case "state":
            return state
        case "steps":
            for _ in range(int(request.query_params["n"])):
                steps.release()
            return None
        case "ignore":
            return "not wanted"
    state["taken"] = 0
    state["in_flight"] += 1
    try:
        if request.url.path.endswith("/never"):
            await asyncio.Event().wait()
        digest = hashlib.sha256()
        async for chunk in request.stream():
            if request.url.path.endswith("/slow"):
                await steps.acquire()
            digest.update(chunk)
            state["taken"] += len(chunk)
        return {"size": state["taken"], "sha256": digest.hexdigest()}
    finally:
        state["in_flight"] -= 1
"""
CONFIG = """
[ai]
preload = []
[functions.upload]
max_body_mb = 120
"""
BLOCK = hashlib.sha512(b"block").digest() * 15_625  # a MB
SIZE = 100 * MB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"upload": UPLOAD, "usual": UPLOAD}
    with serving(project(tmp_path_factory.mktemp("uploads"), functions, CONFIG)) as server:
        yield server


def sha256_of_all() -> str:
    digest = hashlib.sha256()
    for _ in range(SIZE // MB):
        digest.update(BLOCK)
    return digest.hexdigest()


class Sender(threading.Thread):
    """A client that sends 100 MB as fast as it may.

    Attributes:
        sent: bytes that the system has taken so far.
    """

    def __init__(self, wire: Wire, chunked: bool) -> None:
        super().__init__(daemon=True)
        self._wire, self._chunked, self.sent = wire, chunked, 0
        self.start()

    def run(self) -> None:
        for _ in range(SIZE // MB):
            if self._chunked:
                self._wire.send_chunk(BLOCK)
            else:
                self._wire.send(BLOCK)
            self.sent += MB
        if self._chunked:
            self._wire.send_chunk(b"")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_slow_function_holds_the_client_back_and_memory_stays_flat(
    server: Server, client: httpx2.Client, wire: Wire, framing: str
) -> None:
    processes = [psutil.Process(server.pid_of(name)) for name in ("fn-gateway", "fn:upload")]
    before = [process.memory_info().rss for process in processes]

    def grown() -> int:
        now = [process.memory_info().rss for process in processes]
        return max(end - start for end, start in zip(now, before, strict=True))

    chunked = framing == "chunked"
    headers = ("Transfer-Encoding: chunked",) if chunked else ()
    wire.send(wire.head_of("POST", "/functions/v1/upload/slow", *headers, length=0 if chunked else SIZE))
    sender = Sender(wire, chunked)
    while sender.is_alive():
        client.get("/upload/steps", params={"n": 5})
        taken = client.get("/upload/state").json()["taken"]
        assert sender.sent - taken < 20 * MB  # what lies in buffers between the two
        assert grown() < 24 * MB
    client.get("/upload/steps", params={"n": 100_000})
    assert wire.answer().json() == {"size": SIZE, "sha256": sha256_of_all()}
    assert grown() < 24 * MB


def test_a_function_that_reads_nothing_and_answers_at_once_is_heard(
    server: Server, dial: Callable[[], Wire]
) -> None:
    gateway = psutil.Process(server.pid_of("fn-gateway"))
    before = gateway.memory_info().rss
    wire = dial()
    wire.send(wire.head_of("POST", "/functions/v1/upload/ignore", length=SIZE))
    sender = Sender(wire, chunked=False)
    assert wire.answer().body == b"not wanted"
    sender.join(20)
    assert not sender.is_alive()
    wire.ask("POST", "/functions/v1/upload/ignore", body=b"x")
    assert wire.answer().body == b"not wanted"
    assert gateway.memory_info().rss - before < 24 * MB


def test_a_body_over_the_limit_is_refused_by_its_length_or_as_soon_as_it_shows(
    client: httpx2.Client, dial: Callable[[], Wire]
) -> None:
    announced = dial()
    announced.send(announced.head_of("POST", "/functions/v1/usual", length=SIZE))
    answer = announced.answer()
    is_whole(answer.json(), answer.status, "PAYLOAD_TOO_LARGE", answer.headers)
    assert "50 MB (max_body_mb)" in answer.json()["message"]
    assert answer.headers["x-relay-error"] == "true"
    shown = dial()
    shown.send(shown.head_of("POST", "/functions/v1/usual", "Transfer-Encoding: chunked"))
    for _ in range(51):
        shown.send_chunk(BLOCK)
    answer = shown.answer()
    is_whole(answer.json(), answer.status, "PAYLOAD_TOO_LARGE", answer.headers)
    eventually(lambda: client.get("/usual/state").json()["in_flight"] == 0, "the function is cancelled")


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("what", ["never", "slow"])
def test_a_client_that_leaves_while_it_is_held_back_is_noticed(
    client: httpx2.Client, dial: Callable[[], Wire], what: str, leave: str
) -> None:
    """Nothing is read then, so nothing but its connection can tell.

    A client that closes in the usual way tells so behind what it has sent, if that can arrive at all.
    """
    wire = dial()
    wire.send(wire.head_of("POST", f"/functions/v1/upload/{what}", length=SIZE))
    eventually(lambda: client.get("/upload/state").json()["in_flight"] == 1, "the function runs")
    if leave == "reset":
        push(wire.sock, memoryview(BLOCK * 20))
        wire.reset()
    else:
        for _ in range(43):  # until the server has paused, and less than its system's buffer holds
            wire.send(BLOCK[: 16 * 1024])
            eventually(lambda: unsent(wire) == 0, "all that was sent is there")
            client.get("/upload/state")  # a turn of the gateway's loop
        wire.close()
    eventually(lambda: client.get("/upload/state").json()["in_flight"] == 0, "the function is cancelled")


def unsent(wire: Wire) -> int:
    """Bytes that the other side has not taken into its buffers yet."""
    answer = fcntl.ioctl(wire.sock, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)
