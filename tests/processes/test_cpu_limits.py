"""A function that takes too much of the processor hurts itself alone."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import pytest

from tests.running import HELLO, Server, body, eventually, project, serving

LIMIT = "The request took more than 300 ms of CPU (cpu_ms)"
BURNER = """
import asyncio, re, threading, time
from runtime import wait_until

async def handler(request):
    what = request.url.path.rsplit("/", 1)[-1]
    if what == "rests":
        await asyncio.sleep(0.7)
        return "rested"
    if what == "patient":
        print("patience")
        await asyncio.sleep(30)
    if what == "outlives":
        wait_until(spin())
        return "answered"
    if what == "pieces":
        return pieces()
    if what == "short":
        burn(0.005)
        return "short"
    return await globals()[what]()

async def spin():
    print("spinning")
    while True:
        pass

async def steps():
    while True:
        burn(0.002)
        await asyncio.sleep(0)

async def resists():
    while True:
        try:
            await steps()
        except asyncio.CancelledError:
            pass

async def backtrack():
    re.match(r"(a+)+$", "a" * 60 + "b")

async def callback():
    asyncio.get_running_loop().call_soon(spin_now)
    await asyncio.sleep(30)

async def thread():
    threading.Thread(target=spin_now, daemon=True).start()
    await asyncio.sleep(30)

async def offload():
    await asyncio.to_thread(spin_now)

def spin_now():
    while True:
        pass

async def pieces():
    yield "one"
    await spin()

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
"""
PLAIN = """
import os, re, time

def handler(request):
    what = request.url.path.rsplit("/", 1)[-1]
    if what == "backtrack":
        re.match(r"(a+)+$", "a" * 60 + "b")
    if what == "pieces":
        return pieces()
    if what == "late":
        until = time.thread_time() + 0.45  # its limit, and half as much
        while time.thread_time() < until:
            pass
    if what == "who":
        return os.getpid()
    while what == "spin":
        pass
    return "plain"

def pieces():
    yield "one"
    while True:
        pass

def before_unload(reason):
    print("leaving:", reason)
"""
CONFIG = """
[ai]
preload = []
[functions.burner]
cpu_ms = 300
max_workers = 1
[functions.plain]
cpu_ms = 300
max_workers = 1
[functions.hot]
cpu_ms = 100
max_workers = 1
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"burner": BURNER, "plain": PLAIN, "hot": BURNER, "hello": HELLO}
    with serving(project(tmp_path_factory.mktemp("cpu"), functions, CONFIG)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


def logged(server: Server, request_id: str, *texts: str) -> None:
    """Wait until an entry of this request has all of these texts."""
    entry = re.compile(rf"^\S+ ERROR .*\[{request_id}\](?:.*)(?:\n    .*)*", re.MULTILINE)
    eventually(
        lambda: any(all(text in found for text in texts) for found in entry.findall(server.log)),
        f"{texts} of {request_id} in the log:\n{server.log}",
    )


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("burner/spin", "in spin"),
        ("burner/steps", "in steps"),
        ("burner/resists", "in steps"),
        ("burner/backtrack", "in backtrack"),
        ("burner/offload", "in spin_now"),
        ("burner/callback", "in spin_now"),
        ("burner/thread", "in spin_now"),
        ("plain/spin", "in handler"),
        ("plain/backtrack", "in handler"),
    ],
)
def test_the_client_learns_of_the_limit_and_the_log_shows_where(
    server: Server, client: httpx2.Client, path: str, where: str
) -> None:
    began = time.monotonic()
    response = client.get(path)
    assert (response.status_code, body(response)["code"]) == (546, "WORKER_LIMIT")
    assert body(response)["message"] == LIMIT
    assert 0.29 <= time.monotonic() - began < 3.0
    logged(server, response.headers["sb-request-id"], "cpu_ms")
    logged(server, response.headers["sb-request-id"], where)
    function = path.split("/")[0]
    fine = "short" if function == "burner" else "fine"
    assert client.get(f"{function}/{fine}").status_code == 200


def test_the_worker_of_a_plain_handler_that_goes_on_is_told_why_it_has_to_leave(
    server: Server, client: httpx2.Client
) -> None:
    def is_told() -> bool:
        """On a machine that is too busy for its worker to answer, it is killed at once."""
        before = server.log.count("leaving: cpu")
        assert client.get("plain/spin").status_code == 546
        with contextlib.suppress(AssertionError):
            return eventually(lambda: server.log.count("leaving: cpu") > before, "the reason", 3.0)
        return False

    eventually(is_told, "a worker that is told")


def test_a_thread_that_is_over_its_limit_leaves_the_processor_to_others_and_may_come_to_its_end(
    server: Server, client: httpx2.Client
) -> None:
    """The next request is for another worker, and nobody is killed for a thread that ends in time."""
    former = client.get("plain/who").text
    assert client.get("plain/late").status_code == 546
    assert client.get("plain/who").text != former
    server.wait_for_log(f"plain/{former} leaving: cpu")
    eventually(lambda: not psutil.pid_exists(int(former)), "its end")
    assert former not in str(server.metric()["functions"]["plain"]["pids"])  # its end is known, and was told
    assert f"worker {former} ended" not in server.log


@pytest.mark.parametrize("path", ["burner/pieces", "plain/pieces"])
def test_a_stream_that_spins_is_broken_off(server: Server, client: httpx2.Client, path: str) -> None:
    with client.stream("GET", path) as response:
        pieces = response.iter_raw()
        assert next(pieces) == b"one"
        with pytest.raises(httpx2.RemoteProtocolError):
            next(pieces)
    logged(server, response.headers["sb-request-id"], "cpu_ms")


def test_a_callback_that_spins_beside_another_request_ends_both(
    server: Server, client: httpx2.Client
) -> None:
    before = server.log.count("patience")
    with ThreadPoolExecutor(1) as pool:
        rider = pool.submit(client.get, "burner/patient")
        server.wait_for_log("patience", before + 1)
        for response in (client.get("burner/callback"), rider.result()):
            assert response.status_code == 500
            assert "cpu_ms" in body(response)["message"]


def test_work_that_outlives_its_response_is_stopped_too(server: Server, client: httpx2.Client) -> None:
    response = client.get("burner/outlives")
    assert response.text == "answered"
    logged(server, response.headers["sb-request-id"], "cpu_ms", "in spin")
    assert client.get("burner/short").text == "short"


def test_those_who_ride_along_are_told_and_those_who_wait_get_another_worker(
    server: Server, client: httpx2.Client
) -> None:
    before, spins = server.log.count("patience"), server.log.count("spinning")
    with ThreadPoolExecutor(8) as pool:
        riders = [pool.submit(client.get, "burner/patient") for _ in range(2)]
        eventually(lambda: server.log.count("patience") >= 2 + before, "both are begun")
        culprit = pool.submit(client.get, "burner/spin")
        server.wait_for_log("spinning", spins + 1)
        waiting = [pool.submit(client.get, "burner/short") for _ in range(3)]
        assert culprit.result().status_code == 546
        for rider in riders:
            answer = rider.result()
            assert (answer.status_code, body(answer)["code"]) == (500, "WORKER_ERROR")
            assert "another request took more CPU than it may (cpu_ms)" in body(answer)["message"]
        assert [(one.result().status_code, one.result().text) for one in waiting] == [(200, "short")] * 3


def test_one_in_many_steps_hurts_nobody_else(server: Server, client: httpx2.Client) -> None:
    with ThreadPoolExecutor(2) as pool:
        rider = pool.submit(client.get, "burner/rests")
        before = server.pid_of("fn:burner")
        assert client.get("burner/steps").status_code == 546
        assert rider.result().text == "rested"
    assert server.pid_of("fn:burner") == before


def test_a_hot_function_is_never_over_its_limit(server: Server) -> None:
    """It counts per request, not per worker's life: 1000 times 5 ms, and 100 ms are allowed."""
    with ThreadPoolExecutor(4) as pool, server.client() as client:
        before = server.pid_of("fn:hot")
        answers = list(pool.map(lambda _: client.get("hot/short").status_code, range(1000)))
    assert answers == [200] * 1000
    assert server.pid_of("fn:hot") == before


def test_other_functions_stay_quick_meanwhile(server: Server, client: httpx2.Client) -> None:
    over = threading.Event()

    def spin() -> None:
        with server.client() as own:
            while not over.is_set():
                own.get("burner/spin")

    spinner = threading.Thread(target=spin)
    spinner.start()
    try:
        times = []
        for _ in range(100):
            began = time.perf_counter()
            assert client.post("hello", json={"name": "you"}).status_code == 200
            times.append(time.perf_counter() - began)
    finally:
        over.set()
        spinner.join()
    assert sorted(times)[50] < 0.05
