"""Bodies flow both ways, piece by piece, and arrive whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import pytest

from tests.conformance.wire import Cut, Wire, is_whole
from tests.running import Server, project, serving

MB = 1_000_000
MIB = 1 << 20

# Each piece is sent only when the one before has been seen: the client says so with another request.
STEPS = """
import asyncio

steps = asyncio.Queue()

async def pieces():
    for number in range(3):
        await steps.get()
        yield f"piece {number}"

async def handler(request):
    if request.url.path.endswith("/next"):
        steps.put_nowait(True)
        return None
    return pieces()
"""
BODIES = """
import asyncio
import hashlib

gate = asyncio.Event()


def content(size):
    block = hashlib.sha512(b"block").digest() * 1024
    return (block * (size // len(block) + 1))[:size]


async def handler(request):
    what = request.url.path.rpartition("/")[2]
    if what == "open-gate":
        gate.set()
        return None
    if what == "large":
        return content(int(request.query_params["size"]))
    if what == "echo":
        return await request.body()
    if what == "early":
        return "decided early"
    if what == "early-large":
        return content(300_000)
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        if what == "gated":
            await gate.wait()
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}
"""
PARALLEL = """
from runtime import StreamingResponse

async def handler(request):
    async def back():
        async for piece in request.stream():
            yield piece.upper()
    return StreamingResponse(back(), media_type="application/octet-stream")
"""
BREAKS = """
import os
import time
from runtime import Response, StreamingResponse

async def fails():
    yield "all is well so far"
    raise RuntimeError("secret detail of the break")

async def dies():
    yield "all is well so far"
    os._exit(9)

def fails_on_a_thread():
    yield "all is well so far"
    raise RuntimeError("secret detail of the break")

class TooShort(Response):
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"all is well so far", "more_body": True})

class Unfinished(Response):
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all is well so far", "more_body": True})

async def handler(request):
    match request.url.path.rpartition("/")[2]:
        case "fails": return fails()
        case "dies": return dies()
        case "fails-on-a-thread": return fails_on_a_thread()
        case "too-short": return TooShort()
        case "unfinished": return Unfinished()
        case "says-more": return Response("all is well so far", headers={"content-length": "100"})
        case "says-less": return Response("all is well so far, and more", headers={"content-length": "20"})
        case "fine": return "fine"
"""
CONFIG = """
[ai]
preload = []
[functions.bodies]
max_body_mb = 200
max_workers = 1
[functions.steps]
max_workers = 1
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"steps": STEPS, "bodies": BODIES, "breaks": BREAKS, "parallel": PARALLEL}
    with serving(project(tmp_path_factory.mktemp("streaming"), functions, CONFIG)) as server:
        yield server


def content(size: int) -> bytes:
    """The bytes that the function `bodies` makes too."""
    block = hashlib.sha512(b"block").digest() * 1024
    return (block * (size // len(block) + 1))[:size]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- one by one ----------------------------------------------------------------------------


def test_a_piece_arrives_before_the_next_one_is_made(client: httpx2.Client, wire: Wire) -> None:
    wire.ask("GET", "/functions/v1/steps")
    for number in range(3):
        assert client.post("/steps/next").status_code == 204
        if number == 0:
            assert wire.head().status == 200
        assert wire.chunk() == f"piece {number}".encode()
    assert wire.chunk() == b""


def test_a_response_may_answer_each_piece_of_the_upload_as_it_comes(wire: Wire) -> None:
    wire.send(wire.head_of("POST", "/functions/v1/parallel", "Transfer-Encoding: chunked"))
    for word in (b"one", b"two", b"three"):
        wire.send_chunk(word)
        if word == b"one":
            assert wire.head().status == 200
        assert wire.chunk() == word.upper()
    wire.send_chunk(b"")
    assert wire.chunk() == b""


# --- whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 262_144, MIB - 1, MIB, MIB + 1, 5 * MB])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_of_any_size_arrives_whole_both_ways(client: httpx2.Client, size: int, framing: str) -> None:
    data = content(size)
    pieces = iter([data[: size // 3], data[size // 3 :]])
    response = client.post("/bodies/echo", content=data if framing == "length" else pieces)
    assert response.status_code == 200
    assert sha256(response.content) == sha256(data)


def test_a_response_of_30_mb_arrives_whole(client: httpx2.Client) -> None:
    response = client.get("/bodies/large", params={"size": 30 * MB})
    assert int(response.headers["content-length"]) == len(response.content) == 30 * MB
    assert sha256(response.content) == sha256(content(30 * MB))


def test_a_slow_reader_gets_everything_and_costs_no_memory(
    wire: Wire, server: Server, client: httpx2.Client
) -> None:
    gateway = psutil.Process(server.pid_of("fn-gateway"))
    before = gateway.memory_info().rss
    wire.ask("GET", f"/functions/v1/bodies/large?size={60 * MB}")
    assert wire.head().status == 200
    for _ in range(200):  # turns of the gateway's loop, each of which could take a piece
        assert client.get("/breaks/fine").status_code == 200
    assert gateway.memory_info().rss - before < 20 * MB
    assert sha256(wire.exactly(60 * MB)) == sha256(content(60 * MB))


def test_many_bodies_at_once_do_not_mix(client: httpx2.Client) -> None:
    bodies = [bytes([65 + number]) * (100_000 + number) for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda data: client.post("/bodies/echo", content=data).content, bodies))
    assert [sha256(answer) for answer in answers] == [sha256(data) for data in bodies]


def test_a_client_that_waits_to_be_asked_for_the_body_is_asked(wire: Wire) -> None:
    wire.send(wire.head_of("POST", "/functions/v1/bodies/echo", "Expect: 100-continue", length=5))
    assert wire.head().status == 100
    wire.send(b"hello")
    assert wire.answer().body == b"hello"


def test_a_client_that_waits_to_be_asked_is_told_no_at_once(wire: Wire) -> None:
    for name, key, status in (("bodies/echo", False, 401), ("nope", True, 404)):
        wire.send(wire.head_of("POST", f"/functions/v1/{name}", "Expect: 100-continue", key=key, length=5))
        assert wire.answer().status == status
        wire.send(b"hello")


# --- backpressure --------------------------------------------------------------------------


def push(sock: socket.socket, data: memoryview) -> int:
    """Send until the other side takes no more; how much it took."""
    sent = 0
    sock.setblocking(False)
    while sent < len(data) and select.select([], [sock], [], 1.0)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(data[sent : sent + MIB])
    sock.setblocking(True)
    return sent


def test_an_upload_flows_no_faster_than_the_function_reads_it(
    wire: Wire, server: Server, client: httpx2.Client
) -> None:
    gateway, worker = (psutil.Process(server.pid_of(name)) for name in ("fn-gateway", "fn:bodies"))
    before = gateway.memory_info().rss, worker.memory_info().rss
    data = memoryview(content(60 * MB))
    wire.send(wire.head_of("POST", "/functions/v1/bodies/gated", length=len(data)))
    sent = push(wire.sock, data)
    assert sent < 20 * MB
    assert gateway.memory_info().rss - before[0] < 20 * MB
    assert worker.memory_info().rss - before[1] < 20 * MB
    client.post("/bodies/open-gate")
    wire.send(bytes(data[sent:]))
    assert wire.answer().json() == {"size": len(data), "sha256": sha256(bytes(data))}
    assert gateway.memory_info().rss - before[0] < 20 * MB


# --- broken --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fails", "fails-on-a-thread", "dies", "unfinished", "too-short"])
def test_a_stream_that_breaks_does_not_end_like_a_clean_one(
    wire: Wire, client: httpx2.Client, server: Server, how: str
) -> None:
    wire.ask("GET", f"/functions/v1/breaks/{how}", f"sb-request-id: breaks-{how}")
    head = wire.head()
    assert head.status == 200
    rest = wire.rest()
    assert b"all is well so far" in rest
    assert not rest.endswith(b"0\r\n\r\n")
    if "content-length" in head.headers:
        assert len(rest) < int(head.headers["content-length"])
    assert b"secret detail" not in rest
    server.wait_for_log(f"[breaks-{how}] WORKER_ERROR")
    assert client.get("/breaks/fine").text == "fine"


SHORTER = "the response's body is shorter than its content-length"
LONGER = "the response's body is longer than its content-length"


@pytest.mark.parametrize(("how", "said"), [("says-more", SHORTER), ("says-less", LONGER)])
def test_a_body_of_another_length_than_was_said_breaks_the_connection_and_is_told(
    wire: Wire, client: httpx2.Client, server: Server, how: str, said: str
) -> None:
    wire.ask("GET", f"/functions/v1/breaks/{how}", f"sb-request-id: breaks-{how}")
    assert wire.head().status == 200
    wire.rest()
    server.wait_for_log(f"[breaks-{how}] INVALID_RESPONSE")
    assert any(f"[breaks-{how}]" in line and said in line for line in server.log.splitlines())
    assert "RuntimeError: Response content" not in server.log
    assert client.get("/breaks/fine").text == "fine"


def test_a_client_library_notices_that_a_stream_broke(client: httpx2.Client) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get("/breaks/fails")


# --- early answers and kept connections ----------------------------------------------------


def test_an_answer_may_come_before_the_upload_is_over_and_the_connection_stays_good(wire: Wire) -> None:
    for what, size in (("early", len("decided early")), ("early-large", 300_000)):
        wire.send(wire.head_of("POST", f"/functions/v1/bodies/{what}", length=3 * MB))
        wire.send(content(MB))
        answer = wire.answer()
        assert (answer.status, len(answer.body)) == (200, size)
        wire.send(content(2 * MB))  # what a client that did not look up yet still sends
        wire.ask("POST", "/functions/v1/bodies/echo", body=b"the next request")
        assert wire.answer().body == b"the next request"


@pytest.mark.parametrize("size", [300_000, 500_000, 700_000])
def test_a_body_that_nobody_reads_does_not_disturb_the_next_request(wire: Wire, size: int) -> None:
    for _ in range(3):
        wire.ask("POST", "/functions/v1/bodies/early", body=content(size))
        assert wire.answer().body == b"decided early"
        wire.ask("POST", "/functions/v1/bodies/echo", body=b"the next request")
        assert wire.answer().body == b"the next request"


def test_an_early_answer_to_a_chunked_upload_leaves_the_connection_good_too(wire: Wire) -> None:
    wire.send(wire.head_of("POST", "/functions/v1/bodies/early", "Transfer-Encoding: chunked"))
    wire.send_chunk(content(200_000))
    assert wire.answer().body == b"decided early"
    wire.send_chunk(content(200_000))
    wire.send_chunk(b"")
    wire.ask("POST", "/functions/v1/bodies/echo", body=b"the next request")
    assert wire.answer().body == b"the next request"


def test_a_hundred_requests_may_use_one_connection(wire: Wire) -> None:
    for number in range(100):
        data = os.urandom(number * 50)
        wire.ask("POST", "/functions/v1/bodies/echo", body=data)
        assert wire.answer().body == data


def test_requests_sent_in_a_row_are_answered_in_order(wire: Wire) -> None:
    for number in range(10):
        wire.ask("POST", "/functions/v1/bodies/echo", body=b"number %d" % number)
    assert [wire.answer().body for _ in range(10)] == [b"number %d" % number for number in range(10)]


def test_head_is_answered_with_the_headers_alone(wire: Wire) -> None:
    wire.ask("HEAD", "/functions/v1/bodies/large?size=300000")
    answer = wire.answer(bodiless=True)
    assert (answer.status, answer.headers["content-length"]) == (200, "300000")
    wire.ask("HEAD", "/functions/v1/breaks/fine")
    assert wire.answer(bodiless=True).headers["content-length"] == "4"


def test_an_upload_that_breaks_off_hurts_nobody(dial: Callable[[], Wire]) -> None:
    broken = dial()
    broken.send(broken.head_of("POST", "/functions/v1/bodies/echo", "Transfer-Encoding: chunked"))
    broken.send(b"5\r\nhello\r\nnonsense\r\n")
    answer = broken.answer()
    is_whole(answer.json(), answer.status, "BAD_REQUEST", answer.headers)
    left = dial()
    left.send(left.head_of("POST", "/functions/v1/bodies/echo", length=1000) + b"half")
    left.close()
    after = dial()
    after.ask("POST", "/functions/v1/bodies/echo", body=b"fine")
    assert after.answer().body == b"fine"


def test_a_whole_answer_is_told_from_a_cut_one(dial: Callable[[], Wire]) -> None:
    """The tests above can see the difference."""
    broken = dial()
    broken.ask("GET", "/functions/v1/breaks/fails")
    with pytest.raises(Cut):
        broken.answer()


@pytest.mark.parametrize("line", ["POST {} HTTP/1.0", "POST {} HTTP/1.1\r\nConnection: close"])
@pytest.mark.parametrize(("path", "status"), [("/functions/v1/bodies/early", 401), ("/nowhere", 404)])
def test_a_client_that_is_still_sending_can_read_its_refusal(
    server: Server, line: str, path: str, status: int
) -> None:
    """As nginx does it: one request per connection. A reset would take the answer with it."""
    host, port = server.url.removeprefix("http://").split(":")
    size, piece = 20 * MIB, 16 * 1024
    head = f"{line.format(path)}\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(head.encode())
        for _ in range(size // piece):
            sock.sendall(bytes(piece))
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.split(b" ", 2)[1] == str(status).encode()
    assert answer.endswith(b"}")
