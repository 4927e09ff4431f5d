"""Workers that come and go under load, over real processes: nothing is dropped."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.running import Server, body, eventually, project, serving

MODELS = "[ai]\npreload = []\n"

WHO = """
import asyncio
import os


async def handler(request):
    await asyncio.sleep(float(request.query_params.get("sleep", 0)))
    return {"pid": os.getpid()}
"""
LEAVING = """
import asyncio
import os

from runtime import wait_until


def before_unload(reason):
    print(f"leaving because of {reason}")


async def later(text):
    await asyncio.sleep(0.3)
    print(f"finished {text}")


async def handler(request):
    wait_until(later(f"what was begun in {os.getpid()}"))
    return {"pid": os.getpid()}
"""
ECHO = """
import os


async def websocket(socket):
    await socket.accept()
    await socket.send_text(str(os.getpid()))
    async for text in socket.iter_text():
        await socket.send_text(text)


async def handler(request):
    return {"pid": os.getpid()}
"""
CRASHES = """
import os


async def handler(request):
    os._exit(3)
"""
SEQUENCE = """
import asyncio

order = []


async def handler(request):
    order.append(int(request.query_params["number"]))
    await asyncio.sleep(0.002)
    return {"order": order}
"""


@contextmanager
def served(folder: Path, functions: dict[str, str], config: str) -> Iterator[Server]:
    with serving(project(folder, functions, MODELS + config)) as server:
        yield server


def state(server: Server, name: str) -> dict[str, Any]:
    found: dict[str, Any] = server.metric()["functions"][name]
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Functions whose workers leave for different reasons."""
    functions = {"brief": WHO, "grow": WHO, "old": LEAVING, "socket": ECHO, "crashes": CRASHES}
    config = """
[functions.brief]
max_requests = 50
min_workers = 2
[functions.grow]
concurrency = 2
max_workers = 3
worker_idle_s = 1
[functions.old]
max_requests = 1
[functions.socket]
max_requests = 2
timeout_s = 3
"""
    with served(tmp_path_factory.mktemp("lifecycle"), functions, config) as server:
        yield server


def test_two_thousand_requests_across_retirements_all_succeed(server: Server) -> None:
    outcomes: Counter[int] = Counter()
    pids: Counter[int] = Counter()

    def ask(_: int) -> None:
        with server.client() as client:
            for number in range(200):
                response = client.get("/brief", params={"sleep": "0.005" if number % 10 == 0 else "0"})
                outcomes[response.status_code] += 1
                pids[body(response).get("pid", 0)] += 1

    with ThreadPoolExecutor(10) as clients:
        list(clients.map(ask, range(10)))
    assert outcomes == {200: 2000}
    found = state(server, "brief")
    assert found["retired"] >= 10
    assert len(pids) >= 10
    assert (found["restarts"], found["state"]) == (0, "ready")
    eventually(lambda: state(server, "brief")["leaving"] == 0, "the end of those that left")
    eventually(lambda: list(server.family().values()).count("fn:brief") == 2, "two workers, and no more")


def test_workers_come_when_requests_wait_and_leave_when_none_do(server: Server) -> None:
    def ask(_: int) -> int:
        with server.client() as client:
            return int(body(client.get("/grow", params={"sleep": "0.5"}))["pid"])

    with ThreadPoolExecutor(6) as clients:
        pids = Counter(clients.map(ask, range(6)))
    assert sorted(pids.values()) == [2, 2, 2]
    eventually(lambda: state(server, "grow")["workers"] == 1, "down to min_workers")
    found = state(server, "grow")
    assert (found["retired"], found["restarts"]) == (2, 0)


def test_a_retired_worker_is_told_why_and_finishes_what_it_was_given(server: Server) -> None:
    with server.client() as client:
        first = body(client.get("/old"))["pid"]
        eventually(lambda: state(server, "old")["pids"] not in ([], [first]), "the replacement")
        server.wait_for_log(f"finished what was begun in {first}")
    assert "leaving because of early_drop" in server.log
    eventually(lambda: first not in server.family(), "its end")


def test_a_websocket_keeps_its_worker_until_the_time_is_over(server: Server) -> None:
    url = f"{server.functions.replace('http', 'ws')}/socket"
    headers = {"authorization": f"Bearer {server.token()}"}
    with connect(url, additional_headers=headers) as long, connect(url, additional_headers=headers) as short:
        pid = int(long.recv())
        assert int(short.recv()) == pid
        with server.client() as client:
            short.close()  # it counts as a request when it is over
            assert body(client.get("/socket"))["pid"] == pid
            eventually(lambda: state(server, "socket")["leaving"] == 1, "the worker's leave")
            assert body(client.get("/socket"))["pid"] != pid
        long.send("still here")
        assert long.recv() == "still here"
        with pytest.raises(ConnectionClosed) as closed:
            long.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    eventually(lambda: pid not in server.family(), "its end")


def test_a_function_that_crashes_at_every_request_is_seen_to_and_answers_others(server: Server) -> None:
    with server.client() as client:
        statuses = [client.get("/crashes").status_code for _ in range(5)]
        assert statuses == [500] * 5
        assert state(server, "crashes")["state"] == "failing"
        assert client.get("/grow").status_code == 200
    eventually(lambda: state(server, "crashes")["state"] == "ready", "a while without a crash")


def test_those_who_wait_are_served_in_order_whatever_is_replaced_meanwhile(tmp_path: Path) -> None:
    """With one place, the order in which the handler is called is the order of arrival."""
    config = "[functions.sequence]\nconcurrency = 1\nmax_workers = 1\nmax_requests = 5\nqueue = 0\n"
    with served(tmp_path, {"sequence": SEQUENCE}, config) as server, server.client() as client:
        arrived: list[int] = []
        threads = []
        for number in range(60):
            thread = threading.Thread(target=lambda number=number: arrived.append(turn(client, number)))
            thread.start()
            threads.append(thread)
            thread.join(0.001)  # so that it is sent before the next
        for thread in threads:
            thread.join()
        assert sorted(arrived) == list(range(60))
        assert state(server, "sequence")["retired"] >= 2


def turn(client: httpx2.Client, number: int) -> int:
    response = client.get("/sequence", params={"number": str(number)})
    assert response.status_code == 200
    assert body(response)["order"][-1] == number
    return number


# --- policy = "oneshot" ----------------------------------------------------------------------

ONESHOT = """
import os

from runtime import wait_until

count = 0


async def later():
    print(f"finished in {os.getpid()}")


async def handler(request):
    global count
    count += 1
    wait_until(later())
    return {"pid": os.getpid(), "count": count}


async def websocket(socket):
    await socket.accept()
    await socket.send_text(str(os.getpid()))
    async for text in socket.iter_text():
        await socket.send_text(text)
"""


@pytest.fixture(scope="module")
def oneshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, config = tmp_path_factory.mktemp("oneshot"), '[edge_runtime]\npolicy = "oneshot"\n'
    with served(folder, {"once": ONESHOT}, config) as server:
        yield server


def test_with_oneshot_every_request_has_a_process_of_its_own(oneshot: Server) -> None:
    with oneshot.client() as client:
        answers = [body(client.get("/once")) for _ in range(20)]
    assert len({answer["pid"] for answer in answers}) == 20
    assert {answer["count"] for answer in answers} == {1}
    for answer in answers:
        oneshot.wait_for_log(f"finished in {answer['pid']}")
    eventually(lambda: list(oneshot.family().values()).count("fn:once") == 1, "one spare, and no more")
    assert state(oneshot, "once")["restarts"] == 0


def test_with_oneshot_many_at_a_time_are_served_too(oneshot: Server) -> None:
    def ask(_: int) -> int:
        with oneshot.client() as client:
            return int(body(client.get("/once"))["pid"])

    with ThreadPoolExecutor(10) as clients:
        assert len(set(clients.map(ask, range(100)))) == 100
    eventually(lambda: list(oneshot.family().values()).count("fn:once") == 1, "one spare, and no more")


def test_with_oneshot_a_websocket_has_its_process_to_its_end(oneshot: Server) -> None:
    url = f"{oneshot.functions.replace('http', 'ws')}/once"
    headers = {"authorization": f"Bearer {oneshot.token()}"}
    with connect(url, additional_headers=headers) as socket, oneshot.client() as client:
        pid = int(socket.recv())
        assert body(client.get("/once"))["pid"] != pid
        socket.send("hello")
        assert socket.recv() == "hello"
    eventually(lambda: pid not in oneshot.family(), "its end")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_with_oneshot_the_gateway_keeps_nothing_of_those_that_are_gone(oneshot: Server) -> None:
    gateway = oneshot.pid_of("fn-gateway")

    def held() -> tuple[int, int]:
        """Its descriptors, and the ledgers that it has mapped."""
        mapped = Path(f"/proc/{gateway}/maps").read_text().count("memfd:functions")
        return len(list(Path(f"/proc/{gateway}/fd").iterdir())), mapped

    def ask(client: httpx2.Client, count: int) -> None:
        for _ in range(count):
            assert client.get("/once").status_code == 200

    with oneshot.client() as client:
        ask(client, 20)
        eventually(lambda: list(oneshot.family().values()).count("fn:once") == 1, "one spare")
        before = held()
        ask(client, 200)
        eventually(
            lambda: held()[0] <= before[0] + 5 and held()[1] <= before[1] + 2, f"as few as before: {before}"
        )


# --- blocked loops -----------------------------------------------------------------------------

BLOCKS = """
import os
import time


async def handler(request):
    print(f"began with {request.query_params['number']}")
    if "block" in request.query_params:
        time.sleep(5)
    return {"pid": os.getpid()}
"""


@pytest.mark.parametrize("least", [1, 2])
def test_what_a_blocked_worker_was_sent_is_answered_by_another_and_once(tmp_path: Path, least: int) -> None:
    config = f"[functions.blocks]\nmin_workers = {least}\nmax_workers = 2\n"
    with (
        served(tmp_path, {"blocks": BLOCKS}, config) as server,
        ThreadPoolExecutor(6) as clients,
        server.client() as client,
    ):
        eventually(lambda: state(server, "blocks")["workers"] == least, "its workers")
        blocking = clients.submit(client.get, "/blocks?number=0&block=1")
        server.wait_for_log("began with 0")
        others = list(clients.map(lambda number: client.get(f"/blocks?number={number}"), range(1, 6)))
        assert not blocking.done()
        assert [answer.status_code for answer in others] == [200] * 5
        assert len({body(answer)["pid"] for answer in others} - {body(blocking.result())["pid"]}) == 1
        assert blocking.result().status_code == 200
        for number in range(6):
            assert server.log.count(f"began with {number}") == 1
        assert state(server, "blocks")["restarts"] == 0


# --- all functions together --------------------------------------------------------------------


def test_functions_share_the_total(tmp_path: Path) -> None:
    names = ["one", "two", "three", "four"]
    config = "[edge_runtime]\nmax_workers_total = 2\n"
    with served(tmp_path, dict.fromkeys(names, WHO), config) as server, server.client() as client:
        for name in names * 5:
            assert client.get(f"/{name}").status_code == 200
            assert server.metric()["activeUserWorkersCount"] <= 2
        eventually(
            lambda: sum(found.startswith("fn:") for found in server.family().values()) <= 2,
            "two workers of all functions",
        )
