"""A function that takes too much of the machine: its clients are told, others notice nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.processes.users import IS_ROOT
from tests.running import HELLO, Server, body, eventually, project, serving

GREEDY = '''
import asyncio, mmap, os, signal, subprocess, sys, tempfile, threading
from pathlib import Path

MB = 1 << 20
kept = []

def hoard(step=MB):
    """Takes memory for ever, and looks away when there is none."""
    while True:
        try:
            kept.append(bytearray(b"x") * step)
        except MemoryError:
            pass

async def hoard_in_steps():
    while True:
        kept.append(bytearray(b"x") * MB)
        await asyncio.sleep(0)

async def share():
    area = mmap.mmap(-1, 512 * MB)
    kept.append(area)
    for at in range(0, len(area), mmap.PAGESIZE):
        area[at] = 1
        if at % MB == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(60)

async def reserve():
    """All address space, none of it used: the next allocation fails, whosever it is."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    size = 64 * MB
    while size >= 64 * 1024:
        try:
            kept.append(mmap.mmap(-1, size, **private))
        except OSError:
            size //= 2
    await asyncio.sleep(60)

async def write_files(folder=""):
    """Memory that nothing maps, in files without a name or without anybody who has them open."""
    for number in range(512):
        if folder:
            Path(folder, f"functions-test-{os.getpid()}-{number}").write_bytes(bytes(MB))
        else:
            kept.append(os.memfd_create("x"))
            os.write(kept[-1], bytes(MB))
        await asyncio.sleep(0)
    await asyncio.sleep(60)

async def write_over():
    """Children who come to have pages of their own in place of inherited ones."""
    kept.append(bytearray(b"x") * (40 * MB))
    for _ in range(8):
        if os.fork() == 0:
            kept[0][:] = bytes(40 * MB)
            while True:
                signal.pause()
    await asyncio.sleep(60)

async def have_a_child():
    code = "kept = []\\nwhile True: kept.append(bytearray(b'x') * (1 << 20))"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    Path(os.environ["TMPDIR"], "child").write_text(str(child.pid))
    await asyncio.sleep(60)

async def fill(where):
    for number in range(10_000):
        await asyncio.to_thread(Path(where, str(number)).write_bytes, bytes(MB))
    await asyncio.sleep(60)

async def fill_one():
    with open("large", "wb") as file:
        while True:
            file.write(bytes(MB))

async def dig():
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")

def multiply():
    """Processes that have left the session, each with the next."""
    for _ in range(400):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            while True:
                signal.pause()
        os.wait()

async def handler(request):
    match request.url.path.rpartition("/")[2]:
        case "sync":
            hoard()
        case "async":
            await hoard_in_steps()
        case "thread":
            await asyncio.to_thread(hoard)
        case "shared":
            await share()
        case "memfd":
            await write_files()
        case "shm":
            await write_files("/dev/shm")
        case "write-over":
            await write_over()
        case "reserved":
            await reserve()
        case "child":
            await have_a_child()
        case "one-array":
            return len(bytearray(8 << 30))
        case "files":
            await fill(".")
        case "file":
            await fill_one()
        case "deep":
            await dig()
        case "processes":
            multiply()
            await asyncio.sleep(60)
        case "leave-behind":
            command = "for i in 1 2 3 4 5 6 7 8 9 10; do true & done"
            await (await asyncio.create_subprocess_exec("sh", "-c", command)).wait()
        case "burn":
            spin = "while True: pass"
            return {"child": subprocess.Popen([sys.executable, "-c", spin], start_new_session=True).pid}
        case "wait":
            await asyncio.sleep(1)
    return {"pid": os.getpid(), "folder": os.environ["TMPDIR"]}
'''
NEARLY = """
kept = bytearray(b"x") * (140 << 20)  # more than it may have, and less than where the kernel stops it

async def handler(request):
    return len(kept)
"""
AT_IMPORT = "kept = []\nwhile True:\n    kept.append(bytearray(b'x') * (1 << 20))\n"
CONFIG = """
[ai]
preload = []
[functions.greedy]
memory_mb = 64
tmp_mb = 8
max_workers = 1
[functions.at-import]
memory_mb = 64
[functions.nearly]
memory_mb = 128
[functions.many]
max_workers = 1
[functions.busy]
max_workers = 1
cpu_ms = 500
"""
SOON_S = 5.0  # usually 0.3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"greedy": GREEDY, "many": GREEDY, "busy": GREEDY, "hello": HELLO}
    functions |= {"at-import": AT_IMPORT, "nearly": NEARLY}
    root = project(tmp_path_factory.mktemp("memory"), functions, CONFIG)
    with serving(root) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


def who(client: httpx2.Client, function: str = "greedy") -> dict[str, object]:
    return body(client.get(f"/{function}"))


def is_over(answer: httpx2.Response, key: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (546, "WORKER_LIMIT"), answer.text
    assert key in answer.json()["message"]


def is_replaced(client: httpx2.Client, former: dict[str, object], function: str = "greedy") -> None:
    """Another worker serves, and of the former nothing is left."""
    assert who(client, function)["pid"] != former["pid"]
    eventually(lambda: not os.path.exists(str(former["folder"])), "the end of its folder")


@pytest.mark.parametrize("way", ["sync", "async", "thread", "shared", "child"])
def test_one_that_takes_memory_without_end_is_stopped(
    server: Server, client: httpx2.Client, way: str
) -> None:
    former = who(client)
    began = time.monotonic()
    is_over(client.get(f"/greedy/{way}"), "memory_mb")
    assert time.monotonic() - began < SOON_S
    is_replaced(client, former)
    server.wait_for_log("the worker is over a limit: it had ")


@pytest.mark.skipif(not IS_ROOT, reason="only root may look at what a worker has open")
@pytest.mark.parametrize("way", ["memfd", "shm"])
def test_files_in_memory_count_and_go_with_their_worker(client: httpx2.Client, way: str) -> None:
    former = who(client)
    is_over(client.get(f"/greedy/{way}"), "memory_mb")
    is_replaced(client, former)
    eventually(lambda: not [*Path("/dev/shm").glob(f"functions-test-{former['pid']}-*")], "their end")


@pytest.mark.skipif(not IS_ROOT, reason="only root may count to the page")
def test_children_that_write_over_what_they_inherited_are_found(client: httpx2.Client) -> None:
    former = who(client)
    is_over(client.get("/greedy/write-over"), "memory_mb")
    is_replaced(client, former)


def test_a_child_that_takes_memory_ends_with_its_worker(server: Server, client: httpx2.Client) -> None:
    former = who(client)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.get, "/greedy/child")
        path = Path(str(former["folder"]), "child")
        child = int(eventually(lambda: path.exists() and path.read_text(), "the child"))
        is_over(answer.result(), "memory_mb")
    eventually(lambda: not psutil.pid_exists(child), "its end")


def test_one_that_can_have_no_more_memory_is_stopped_and_not_kept(client: httpx2.Client) -> None:
    """Nothing works in it any more: it would take requests and never answer."""
    former = who(client)
    is_over(client.get("/greedy/reserved"), "memory_mb")
    is_replaced(client, former)


def test_an_array_that_nobody_could_have_is_refused_and_hurts_no_other(client: httpx2.Client) -> None:
    former = who(client)
    is_over(client.get("/greedy/one-array"), "memory_mb")
    assert who(client) == former


def test_all_requests_of_the_worker_are_told(server: Server, client: httpx2.Client) -> None:
    """Whose memory it is cannot be known."""
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(client.get, "/greedy/wait") for _ in range(5)]
        eventually(lambda: server.metric()["functions"]["greedy"]["in_flight"] == 5, "the others")
        is_over(client.get("/greedy/async"), "memory_mb")
        for other in others:
            is_over(other.result(), "memory_mb")
    assert client.get("/greedy").status_code == 200


@pytest.mark.parametrize(("name", "limit"), [("at-import", 64), ("nearly", 128)])
def test_one_that_takes_memory_when_it_is_imported_does_not_start(
    server: Server, client: httpx2.Client, name: str, limit: int
) -> None:
    answer = client.get(f"/{name}")
    assert (answer.status_code, answer.json()["code"]) == (503, "BOOT_ERROR")
    server.wait_for_log(f"→ {name} did not start")
    assert f"took more than {limit} MB of memory (memory_mb)" in server.log


def test_one_that_fills_its_folder_is_stopped_and_its_folder_goes(client: httpx2.Client) -> None:
    former = who(client)
    is_over(client.get("/greedy/files"), "tmp_mb")
    is_replaced(client, former)


def test_a_file_that_is_too_large_is_refused(client: httpx2.Client) -> None:
    is_over(client.get("/greedy/file"), "tmp_mb")
    assert client.get("/greedy").status_code == 200


def test_a_folder_a_thousand_levels_deep_goes_with_its_worker(server: Server, client: httpx2.Client) -> None:
    former = who(client)
    client.get("/greedy/deep")
    psutil.Process(int(str(former["pid"]))).kill()
    eventually(lambda: not os.path.exists(str(former["folder"])), "the end of its folder")


def test_one_that_multiplies_is_stopped_with_all_that_it_started(
    server: Server, client: httpx2.Client
) -> None:
    before = len(server.family())
    former = who(client, "many")
    is_over(client.get("/many/processes"), "processes")
    is_replaced(client, former, "many")
    eventually(lambda: len(server.family()) <= before, "the end of what it started")


def test_what_it_started_and_never_asked_for_is_no_process_of_it(
    server: Server, client: httpx2.Client
) -> None:
    """Programs that leave others in the background: when many have ended, a fresh worker comes."""
    former, metric = who(client, "many"), server.metric
    stopped, retired = [metric()["functions"]["many"][key] for key in ("restarts", "retired")]
    for _ in range(30):
        assert client.get("/many/leave-behind").status_code == 200
    is_gone = eventually(lambda: not psutil.pid_exists(int(str(former["pid"]))), "its end")
    assert is_gone
    is_replaced(client, former, "many")
    assert metric()["functions"]["many"]["restarts"] == stopped
    assert metric()["functions"]["many"]["retired"] == retired + 1


def test_what_burns_on_after_its_request_is_stopped(server: Server, client: httpx2.Client) -> None:
    """Of nobody's time, so nobody is told but the log."""
    former = who(client, "busy")
    child = int(str(body(client.get("/busy/burn"))["child"]))
    server.wait_for_log("the worker is over a limit: without a request it took ")
    server.wait_for_log("The function's worker took more than 500 ms of CPU without a request (cpu_ms)")
    eventually(lambda: not psutil.pid_exists(child), "its end")
    is_replaced(client, former, "busy")


@pytest.mark.parametrize("way", ["sync", "child", "files", "processes"])
def test_its_neighbours_are_served_meanwhile(server: Server, client: httpx2.Client, way: str) -> None:
    def call() -> float:
        began = time.monotonic()
        assert client.post("/hello", json={"name": "x"}).json() == {"message": "Hello x!"}
        return time.monotonic() - began

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.get, f"/greedy/{way}")
        times = [call()]
        while not answer.done():
            times.append(call())
    assert answer.result().status_code == 546
    assert sorted(times)[len(times) // 2] < 0.1
    assert max(times) < 2
