"""A handler that blocks its event loop is noticed, and stalls only its own worker."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.running import Server, eventually, project, serving

BLOCKER = """
import asyncio, os, time

async def handler(request):
    what = request.url.path.rsplit("/", 1)[-1]
    if what == "block":
        time.sleep(2.5)
    if what == "wait":
        await asyncio.sleep(1.5)
    if what == "large":
        return b"x" * 2_560_000  # all of it on its way, and more than the kernel takes for who does not read
    return str(os.getpid())
"""
OTHER = """
import asyncio

async def handler(request):
    await asyncio.sleep(1.7)
"""
CONFIG = "[ai]\npreload = []\n[functions.blocker]\nmin_workers = 2\nmax_workers = 2\n"
NOTICED = "its event loop has been blocked for 1 s"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        project(tmp_path_factory.mktemp("blocked"), {"blocker": BLOCKER, "other": OTHER}, CONFIG)
    ) as server:
        yield server


def workers(server: Server) -> list[int]:
    return [pid for pid, name in server.family().items() if name == "fn:blocker"]


def test_a_blocked_worker_is_told_of_left_alone_and_used_again(server: Server) -> None:
    eventually(lambda: len(workers(server)) == 2, "two workers")
    with ThreadPoolExecutor(4) as pool, server.client() as client:
        blocked = pool.submit(client.get, "blocker/block")
        server.wait_for_log(NOTICED)
        others = {client.get("blocker/who").text for _ in range(10)}
        assert not blocked.done()
        mine = blocked.result().text
        assert mine not in others
        assert len(others) == 1
        entry = server.log[server.log.index(NOTICED) :].splitlines()
        assert any('blocker/index.py", line 7 in handler' in line for line in entry[:4])
        assert blocked.result().headers["sb-request-id"] in server.log.split(NOTICED)[0].splitlines()[-1]

        def both_are_used() -> bool:
            answers = pool.map(lambda _: client.get("blocker/wait").text, range(3))
            return {mine} < set(answers)

        eventually(both_are_used, "the worker that was blocked is used again")


def test_a_client_that_leaves_its_answer_unread_blocks_nothing(server: Server) -> None:
    before = server.log.count(NOTICED)
    address = httpx2.URL(server.url)
    with socket.socket() as connection, server.client() as client:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect((address.host, address.port))
        head = "GET /functions/v1/blocker/large HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer"
        connection.sendall(f"{head} {server.token()}\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert client.get("other").status_code == 204  # takes longer than a blocked loop takes to be noticed
        assert server.log.count(NOTICED) == before


def test_waiting_for_something_is_not_blocking(server: Server) -> None:
    before = server.log.count(NOTICED)
    with server.client() as client:
        assert client.get("blocker/wait").status_code == 200
    assert server.log.count(NOTICED) == before
