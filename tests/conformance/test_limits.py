"""Time limits of requests and WebSockets, as clients and functions see them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import websockets.exceptions
from websockets.sync.client import ClientConnection, connect

from tests.conformance.wire import Cut, Wire
from tests.running import Server, eventually, project, serving

LIMIT_S = 0.5
LATE_S = 0.25
"""How long after its limit a request may be answered."""

WORK = """
import asyncio
import contextlib
import threading
import time
from runtime import is_cancelled, time_left, wait_until

async def forever(seconds=0.01):
    while True:
        yield "."
        await asyncio.sleep(seconds)

async def stalls():
    yield "begun"
    await asyncio.sleep(3600)

async def works(mark):
    try:
        await asyncio.sleep(3600)
    finally:
        print("ended:", mark)

async def resists():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

async def handler(request):
    what = request.url.path.rpartition("/")[2]
    match what:
        case "fine":
            return "fine"
        case "waits":
            await works("waits")
        case "forever":
            return forever()
        case "stalls":
            return stalls()
        case "keeps":
            wait_until(works("kept"))
            return "kept"
        case "left":
            return {"left": time_left(), "cancelled": is_cancelled()}
        case "reads":
            return {"size": len(await request.body())}
        case "big":
            return bytes(40_000_000)
        case "resists":
            await resists()
        case "thread":
            await asyncio.to_thread(asks, "asked")

def asks(mark):
    while not is_cancelled():
        time.sleep(0.002)
    print("ended:", mark)

async def websocket(ws):
    if ws.url.path.endswith("/never"):
        await asyncio.sleep(3600)
    await ws.accept()
    try:
        if ws.url.path.endswith("/talks"):
            while True:
                await ws.send_text("tick")
                await asyncio.sleep(0.05)
        while True:
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                print("socket told", message["code"], message["reason"])
                return
            if message["text"] == "left":
                await ws.send_json(time_left())
    finally:
        print("ended: socket")
"""
PLAIN = """
import time
from runtime import is_cancelled, time_left

def handler(request):
    what = request.url.path.rpartition("/")[2]
    if what == "fine":
        return "fine"
    if what == "left":
        return {"left": time_left(), "cancelled": is_cancelled()}
    if what == "pieces":
        return pieces()
    print("waiting:", what)
    while what == "stubborn" or not is_cancelled():
        time.sleep(0.002)
    print("ended:", what)

def pieces():
    while True:
        yield "."
        while not is_cancelled():
            time.sleep(0.002)
        print("ended: pieces")
        return
"""
CONFIG = f"""
[ai]
preload = []
[edge_runtime.defaults]
timeout_s = 30
idle_s = 30
websocket_idle_s = 30
max_workers = 1
[functions.plain]
concurrency = 2
[functions.short]
timeout_s = {LIMIT_S}
[functions.silent]
idle_s = {LIMIT_S}
websocket_idle_s = {LIMIT_S}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"task": WORK, "short": WORK, "silent": WORK, "plain": PLAIN}
    root = project(tmp_path_factory.mktemp("limits"), functions, CONFIG)
    with serving(root, env={"FUNCTIONS_TEST_LIMITS": "1"}) as server:
        yield server


def refusal(response: httpx2.Response) -> tuple[int, str, str]:
    """Status, code and message of an answer that the host gave."""
    error = response.json()
    return response.status_code, error["code"], error["message"]


# --- the whole of a request ----------------------------------------------------------------


def test_a_request_over_its_time_is_answered_with_the_limit_and_cancelled(
    client: httpx2.Client, server: Server
) -> None:
    before = server.log.count("ended: waits")
    began = time.monotonic()
    response = client.get("/short/waits")
    seconds = time.monotonic() - began
    assert refusal(response) == (546, "WORKER_LIMIT", "The function did not finish within 0.5 s (timeout_s)")
    assert "x-relay-error" not in response.headers  # it was run
    assert LIMIT_S - 0.01 <= seconds <= LIMIT_S + LATE_S
    server.wait_for_log("ended: waits", before + 1)
    assert client.get("/short/fine").text == "fine"


def test_a_response_over_its_time_is_broken_off(wire: Wire, server: Server) -> None:
    wire.ask("GET", "/functions/v1/short/forever", "sb-request-id: too-long")
    assert wire.head().status == 200
    with pytest.raises(Cut):
        list(iter(wire.chunk, b""))
    server.wait_for_log("[too-long] WORKER_LIMIT")
    server.wait_for_log("the response broke off: The function did not finish within 0.5 s (timeout_s)")


def test_a_client_that_does_not_read_cannot_hold_a_response_beyond_its_time(
    wire: Wire, server: Server
) -> None:
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.ask("GET", "/functions/v1/short/big", "sb-request-id: unread")
    server.wait_for_log("[unread] WORKER_LIMIT")
    eventually(lambda: in_flight(server, "short") == 0, "its place")


def in_flight(server: Server, name: str) -> int:
    count: int = server.metric()["functions"][name]["in_flight"]
    return count


def test_work_that_outlives_its_response_has_the_requests_time(client: httpx2.Client, server: Server) -> None:
    before = server.log.count("ended: kept")
    assert client.get("/short/keeps", headers={"sb-request-id": "keeps"}).text == "kept"
    server.wait_for_log("ended: kept", before + 1)
    server.wait_for_log("work given to wait_until was cancelled after 0.5 s (timeout_s)")
    (line,) = [line for line in server.log.splitlines() if "wait_until was cancelled" in line]
    assert "keeps" in line


@pytest.mark.parametrize("function", ["task", "plain"])
def test_a_handler_can_ask_how_much_time_it_has(client: httpx2.Client, function: str) -> None:
    answer = client.get(f"/{function}/left").json()
    assert 25 < answer["left"] <= 30
    assert answer["cancelled"] is False


# --- silence -------------------------------------------------------------------------------


def test_a_function_that_says_nothing_in_time_is_a_504(client: httpx2.Client) -> None:
    response = client.get("/silent/waits")
    expected = (504, "IDLE_TIMEOUT", "The function sent no response within 0.5 s (idle_s)")
    assert refusal(response) == expected


def test_a_stream_that_falls_silent_is_broken_off(wire: Wire, server: Server) -> None:
    wire.ask("GET", "/functions/v1/silent/stalls", "sb-request-id: stalled")
    assert wire.head().status == 200
    assert wire.chunk() == b"begun"
    with pytest.raises(Cut):
        wire.chunk()
    server.wait_for_log("[stalled] IDLE_TIMEOUT")
    server.wait_for_log("the response broke off: The function sent nothing more for 0.5 s (idle_s)")


def test_a_stream_that_goes_on_is_left_alone(wire: Wire) -> None:
    wire.ask("GET", "/functions/v1/silent/forever")
    assert wire.head().status == 200
    ends_at = time.monotonic() + 2 * LIMIT_S
    while time.monotonic() < ends_at:
        assert wire.chunk()


def test_a_body_that_stops_coming_is_the_clients_fault(wire: Wire) -> None:
    wire.send(wire.head_of("POST", "/functions/v1/silent/reads", length=100) + b"half")
    answer = wire.answer()
    assert (answer.status, answer.json()["code"]) == (408, "REQUEST_TIMEOUT")
    assert answer.json()["message"] == "Nothing more of the request's body arrived for 0.5 s (idle_s)"
    assert wire.rest() == b""


def test_a_body_that_dribbles_has_the_requests_time(wire: Wire) -> None:
    wire.send(wire.head_of("POST", "/functions/v1/short/reads", length=10_000))
    wire.sock.settimeout(0.05)
    with contextlib.suppress(OSError):
        while True:
            wire.send(b".")
            with contextlib.suppress(TimeoutError):
                if wire.sock.recv(1, socket.MSG_PEEK):
                    break
    wire.sock.settimeout(20)
    answer = wire.answer()
    assert (answer.status, answer.json()["code"]) == (408, "REQUEST_TIMEOUT")
    assert answer.json()["message"] == "The request's body did not arrive within 0.5 s (timeout_s)"


def test_a_body_that_comes_slowly_arrives(wire: Wire) -> None:
    wire.send(wire.head_of("POST", "/functions/v1/silent/reads", length=10))
    for _ in range(10):
        time.sleep(LIMIT_S / 5)
        wire.send(b".")
    assert wire.answer().json() == {"size": 10}


# --- WebSockets ----------------------------------------------------------------------------


def dialled(server: Server, path: str, **headers: str) -> ClientConnection:
    url = f"{server.functions.replace('http', 'ws', 1)}{path}?jwt={server.token()}"
    return connect(url, additional_headers=headers, ping_interval=None)


def test_a_websocket_on_which_nothing_is_said_is_closed_and_both_sides_are_told(server: Server) -> None:
    before = server.log.count("socket told 1001 no message for 0.5 s (websocket_idle_s)")
    with dialled(server, "/silent") as ws:
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            ws.recv(10)
        assert (ws.close_code, ws.close_reason) == (1001, "no message for 0.5 s (websocket_idle_s)")
    server.wait_for_log("socket told 1001 no message for 0.5 s (websocket_idle_s)", before + 1)


@pytest.mark.parametrize("path", ["/silent/talks", "/silent/listens"])
def test_a_websocket_lives_while_either_side_speaks(server: Server, path: str) -> None:
    with dialled(server, path) as ws:
        ends_at = time.monotonic() + 3 * LIMIT_S
        while time.monotonic() < ends_at:
            if path.endswith("talks"):
                assert ws.recv(10) == "tick"
            else:
                ws.send("still here")
                time.sleep(LIMIT_S / 5)
        assert ws.protocol.close_code is None


def test_a_websocket_may_last_longer_than_a_request(server: Server) -> None:
    with dialled(server, "/short") as ws:
        time.sleep(1.5 * LIMIT_S)
        ws.send("left")
        assert ws.recv(10) == "Infinity"


def test_a_handshake_that_is_not_answered_is_a_504(server: Server) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        dialled(server, "/silent/never")
    assert refused.value.response.status_code == 504
    assert b"idle_s" in refused.value.response.body


# --- threads -------------------------------------------------------------------------------


def test_a_plain_handler_learns_that_its_time_is_up(client: httpx2.Client, server: Server) -> None:
    before = server.log.count("ended: asks")
    response = client.get("/plain/asks", headers={"x-limit-timeout-ms": "300"})
    assert refusal(response) == (546, "WORKER_LIMIT", "The function did not finish within 0.3 s (timeout_s)")
    server.wait_for_log("ended: asks", before + 1)


@pytest.mark.parametrize("path", ["plain/asks", "task/thread", "plain/pieces"])
def test_a_thread_learns_that_the_client_left(wire: Wire, server: Server, path: str) -> None:
    mark = {"plain/asks": "asks", "task/thread": "asked", "plain/pieces": "pieces"}[path]
    before = server.log.count(f"ended: {mark}")
    wire.ask("GET", f"/functions/v1/{path}")
    if mark == "pieces":
        wire.head()
        assert wire.chunk() == b"."
    else:
        eventually(lambda: in_flight(server, path.partition("/")[0]) == 1, "the request")
    wire.close()
    server.wait_for_log(f"ended: {mark}", before + 1)


@pytest.mark.parametrize("path", ["plain/stubborn", "task/resists"])
def test_what_goes_on_after_its_time_spoils_the_worker_which_is_replaced(
    client: httpx2.Client, server: Server, path: str
) -> None:
    name = path.partition("/")[0]
    (pid,) = server.metric()["functions"][name]["pids"]
    response = client.get(f"/{path}", headers={"x-limit-timeout-ms": "200", "sb-request-id": f"of-{name}"})
    assert response.status_code == 546
    server.wait_for_log(f"the worker is replaced: request of-{name} goes on 2 s after its end (timeout_s)")
    assert client.get(f"/{name}/fine").text == "fine"
    eventually(lambda: pid not in server.metric()["functions"][name]["pids"], "another worker")


# --- limits that tests bring along ---------------------------------------------------------


def test_a_request_may_bring_its_own_limits_where_tests_run(client: httpx2.Client) -> None:
    timeout = client.get("/task/waits", headers={"x-limit-timeout-ms": "50"})
    assert refusal(timeout)[2] == "The function did not finish within 0.05 s (timeout_s)"
    idle = client.get("/task/waits", headers={"x-limit-idle-ms": "50"})
    assert refusal(idle)[2] == "The function sent no response within 0.05 s (idle_s)"
    assert refusal(client.get("/task/fine", headers={"x-limit-cpu-ms": "1s"}))[:2] == (400, "BAD_REQUEST")


def test_nobody_brings_limits_to_a_server_that_was_not_told_so(tmp_path: Path) -> None:
    with serving(project(tmp_path, {"task": WORK})) as server, server.client() as client:
        assert client.get("/task/left", headers={"x-limit-timeout-ms": "1000"}).json()["left"] > 300
        assert client.get("/task/fine", headers={"x-limit-cpu-ms": "nonsense"}).text == "fine"


def test_limits_that_tests_bring_need_loopback(tmp_path: Path) -> None:
    server = Server(project(tmp_path, {}), "--host", "0.0.0.0", env={"FUNCTIONS_TEST_LIMITS": "1"})
    assert server.process.wait(20) == 2
    server.stop()
    assert "FUNCTIONS_TEST_LIMITS: lets every client set its own limits" in server.log
