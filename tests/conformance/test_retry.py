"""Which requests are given to another worker when theirs dies, and which never are.

A worker that is stopped takes a request and does not accept it; killed then, it has died
before accepting.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conformance.wire import Wire, is_whole
from tests.running import Server, eventually, project, serving

ECHO = """
import hashlib

async def handler(request):
    body = await request.body()
    print("called")
    return {"method": request.method, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
"""
DIES = """
import os

async def handler(request):
    if request.url.path.endswith("/fine"):
        print("survived", request.query_params["why"])
        return "fine"
    print("dies of", (await request.body()).decode())
    os._exit(1)
"""
# The first call of a test finds no mark, leaves one and dies.
DIES_ONCE = """
import os
from runtime import Response

async def handler(request):
    body = await request.body()
    print("called with", len(body))
    mark = request.query_params["mark"]
    if os.path.exists(mark):
        return len(body)
    open(mark, "w").close()
    if not request.url.path.endswith("/late"):
        os._exit(1)
    async def pieces():
        yield b"begun"
        os._exit(1)
    return pieces()
"""
CONFIG = """
[ai]
preload = []
[edge_runtime.defaults]
max_workers = 1
[functions.pair]
min_workers = 2
max_workers = 2
[functions.repeatable]
retry = "idempotent"
[functions.always-dies]
retry = "idempotent"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"echo": ECHO, "pair": ECHO, "dies": DIES, "always-dies": DIES}
    functions |= {"repeatable": DIES_ONCE, "once": DIES_ONCE}
    with serving(project(tmp_path_factory.mktemp("retry"), functions, CONFIG)) as server:
        yield server


def only_pid(server: Server, name: str) -> int:
    pids: list[int] = eventually(lambda: server.metric()["functions"][name]["pids"], f"a worker of {name}")
    assert len(pids) == 1
    return pids[0]


def stop(pid: int) -> None:
    """Hold a process still, and wait until it is."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "a stop")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("size", [0, 7, 60_000, 65_536, 200_000, 3_000_000])
def test_a_request_whose_worker_died_before_accepting_is_given_to_another(
    wire: Wire, server: Server, method: str, size: int
) -> None:
    called = server.log.count("called")
    data = os.urandom(size)
    victim = only_pid(server, "echo")
    stop(victim)
    wire.send(wire.head_of(method, "/functions/v1/echo", length=size) + data[: size // 2])
    eventually(lambda: server.metric()["functions"]["echo"]["in_flight"] == 1, "the request")
    os.kill(victim, signal.SIGKILL)
    wire.send(data[size // 2 :])
    answer = wire.answer()
    assert answer.status == 200
    assert answer.json() == {"method": method, "size": size, "sha256": hashlib.sha256(data).hexdigest()}
    assert only_pid(server, "echo") != victim
    server.wait_for_log("called", called + 1)


def test_every_request_that_a_dead_worker_had_not_accepted_is_answered(
    dial: Callable[[], Wire], server: Server
) -> None:
    victim = only_pid(server, "echo")
    stop(victim)
    wires = [dial() for _ in range(30)]
    for number, wire in enumerate(wires):
        wire.ask("POST", "/functions/v1/echo", body=b"x" * number)
    eventually(lambda: server.metric()["functions"]["echo"]["in_flight"] == 30, "the requests")
    os.kill(victim, signal.SIGKILL)
    assert [wire.answer().json()["size"] for wire in wires] == list(range(30))


def test_a_request_is_given_to_another_worker_once_and_no_more(wire: Wire, server: Server) -> None:
    def state() -> dict[str, Any]:
        found: dict[str, Any] = server.metric()["functions"]["pair"]
        return found

    pids = state()["pids"]
    assert len(pids) == 2
    for pid in pids:
        stop(pid)
    wire.ask("POST", "/functions/v1/pair", body=b"twice unlucky")
    for pid in pids:
        eventually(lambda: state()["in_flight"] == 1, "the request")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: pid not in state()["pids"], "its end")  # type: ignore[misc]
    answer = wire.answer()
    is_whole(answer.json(), answer.status, "WORKER_ERROR", answer.headers)
    assert answer.headers["x-relay-error"] == "true"  # it was never run


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_a_request_that_was_accepted_is_never_repeated(
    client: httpx2.Client, server: Server, method: str
) -> None:
    response = client.request(method, "/dies", content=f"a {method}".encode())
    is_whole(response.json(), response.status_code, "WORKER_ERROR", response.headers)
    assert "x-relay-error" not in response.headers
    assert client.get(f"/dies/fine?why={method}").text == "fine"
    server.wait_for_log(f"survived {method}")
    assert server.log.count(f"dies of a {method}") == 1


@pytest.mark.parametrize("size", [0, 7, 60_000])
def test_a_function_may_say_that_its_requests_can_be_repeated(
    client: httpx2.Client, shared_folder: Path, size: int
) -> None:
    response = client.post("/repeatable", params={"mark": str(shared_folder / "mark")}, content=b"x" * size)
    assert (response.status_code, response.text) == (200, str(size))


def test_without_saying_so_it_gets_no_second_chance(client: httpx2.Client, shared_folder: Path) -> None:
    mark = {"mark": str(shared_folder / "mark")}
    assert client.post("/once", params=mark).json()["code"] == "WORKER_ERROR"
    assert client.post("/once", params=mark).text == "0"


def test_a_request_that_kills_every_worker_is_repeated_once(client: httpx2.Client, server: Server) -> None:
    response = client.post("/always-dies", content=b"poison")
    is_whole(response.json(), response.status_code, "WORKER_ERROR", response.headers)
    assert client.get("/always-dies/fine?why=poison").text == "fine"
    server.wait_for_log("survived poison")
    assert server.log.count("dies of poison") == 2


def test_a_response_that_has_begun_is_never_repeated(wire: Wire, shared_folder: Path) -> None:
    mark = shared_folder / "mark"
    wire.ask("GET", f"/functions/v1/repeatable/late?mark={mark}")
    assert wire.head().status == 200
    assert not wire.rest().endswith(b"0\r\n\r\n")
    assert mark.exists()


def test_a_body_that_was_not_kept_is_not_repeated_in_part(client: httpx2.Client, shared_folder: Path) -> None:
    """The gateway keeps the first 64 KB, so a longer one cannot be given to another worker."""
    mark = {"mark": str(shared_folder / "mark")}
    response = client.post("/repeatable", params=mark, content=b"x" * 1_000_000)
    is_whole(response.json(), response.status_code, "WORKER_ERROR", response.headers)
