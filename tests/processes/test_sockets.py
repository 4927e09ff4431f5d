"""WebSockets outlive what does not concern them, and are told why when they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import websockets.exceptions
from websockets.frames import Close
from websockets.sync.client import ClientConnection, connect

from tests.running import Server, eventually, project, serving

from .users import ME

NEWER = Close(1012, "a new version of the function is served")
REMOVED = Close(1001, "the function is no longer served")
STOPPING = Close(1001, "the server is shutting down")

TALK = """
import asyncio
import os
from pathlib import Path

VERSION = {version!r}

async def handler(request):
    return VERSION

async def websocket(ws):
    name = ws.query_params.get("name", "")
    if gate := ws.query_params.get("gate"):
        print(name, "waits at the gate")
        while not Path(gate).exists():
            await asyncio.sleep(0.01)
    await ws.accept()
    await ws.send_text(VERSION)
    while "flood" in ws.query_params:
        sending = asyncio.create_task(ws.send_bytes(os.urandom(60_000)))
        if not (await asyncio.wait([sending], timeout=0.3))[0]:
            print("the client does not read")
        await sending
    while True:
        message = await ws.receive()
        if message["type"] == "websocket.disconnect":
            break
        await ws.send_text(message["text"])
    await asyncio.sleep(float(ws.query_params.get("farewell", 0)))
    print(name, "left", VERSION, "with", message["code"], message["reason"])
"""
SHARED = "from _shared.word import WORD\n" + TALK
FEW_DESCRIPTORS = ("/bin/sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh")  # until one allows itself more
LAZY: dict[str, Any] = {"compression": None, "close_timeout": 0.1}  # for one who does not read
CONFIG = """
[ai]
preload = []

[functions.crowd]
concurrency = 1000

[functions.few]
max_workers = 1
concurrency = 2
queue_wait_s = 0.3
"""


def talk(version: str) -> str:
    return TALK.replace("{version!r}", repr(version))


def save(server: Server, path: str, text: str) -> None:
    """Replace a file of the functions."""
    server.save(f"functions/{path}", text)


def dial(server: Server, target: str, **options: Any) -> ClientConnection:
    url = f"{server.functions}{target}".replace("http://", "ws://")
    headers = {"Authorization": f"Bearer {server.token()}"}
    websocket: ClientConnection = connect(
        url, additional_headers=headers, proxy=None, max_size=None, **options
    )
    return websocket


def ending(websocket: ClientConnection) -> Close | None:
    """How the server closes a WebSocket; None: the connection broke."""
    with contextlib.suppress(websockets.exceptions.ConnectionClosed):
        while True:
            websocket.recv(20)
    return websocket.protocol.close_rcvd


def says(websocket: ClientConnection, text: str) -> None:
    """It is open, and echoes."""
    websocket.send(text)
    assert websocket.recv(20) == text


def pids(server: Server, name: str) -> list[int]:
    found: list[int] = server.metric()["functions"][name]["pids"]
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {name: talk("one") for name in ("edited", "other", "slow", "gone", "crowd", "few")}
    functions |= {"sharing": SHARED.replace("{version!r}", "WORD"), "_shared/word.py": "WORD = 'one'\n"}
    root = project(tmp_path_factory.mktemp("sockets"), functions, CONFIG)
    with serving(root, via=FEW_DESCRIPTORS) as server:
        yield server


# --- a new version -------------------------------------------------------------------------


def test_a_new_version_closes_the_sockets_of_the_old_one_with_1012_and_no_others(server: Server) -> None:
    (old,) = pids(server, "edited")
    with dial(server, "/edited?name=first&farewell=0.2") as mine, dial(server, "/other") as other:
        assert mine.recv(20) == other.recv(20) == "one"
        save(server, "edited/index.py", talk("two"))
        assert ending(mine) == NEWER
        says(other, "still here")
        server.wait_for_log(f"first left one with 1012 {NEWER.reason}")
        eventually(lambda: not psutil.pid_exists(old), "the old worker's end")
        with dial(server, "/edited") as next_one:
            assert next_one.recv(20) == "two"
        says(other, "and here")


def test_a_version_that_does_not_boot_closes_nothing(server: Server) -> None:
    with dial(server, "/other") as websocket:
        assert websocket.recv(20) == "one"
        save(server, "other/index.py", "this is no Python\n")
        server.wait_for_log("other did not start; the previous version keeps serving")
        says(websocket, "still here")
        save(server, "other/index.py", talk("one"))


def test_shared_code_closes_the_sockets_of_those_that_use_it(server: Server) -> None:
    with dial(server, "/sharing") as sharing, dial(server, "/other") as other:
        assert sharing.recv(20) == other.recv(20) == "one"
        save(server, "_shared/word.py", "WORD = 'two'\n")
        assert ending(sharing) == NEWER
        says(other, "still here")


def test_a_handshake_that_the_old_version_has_begun_is_finished_and_then_closed(
    server: Server,
) -> None:
    with ME.folder() as folder, ThreadPoolExecutor(1) as pool:
        gate = folder / "gate"
        dialling = pool.submit(dial, server, f"/slow?name=guest&gate={gate}")
        server.wait_for_log("guest waits at the gate")
        save(server, "slow/index.py", talk("two"))
        server.wait_for_log("slow reloaded")
        gate.touch()
        with dialling.result() as websocket:
            assert ending(websocket) == NEWER
    server.wait_for_log("guest left one with 1012")


def test_sockets_that_open_during_reloads_are_served_by_one_version_or_the_other(server: Server) -> None:
    saves = 15
    ends: list[Close | None] = []

    def come_and_stay() -> None:
        while True:
            with dial(server, "/edited") as websocket:
                if websocket.recv(20) == f"version {saves}":
                    return
                ends.append(ending(websocket))

    with ThreadPoolExecutor(4) as pool:
        guests = [pool.submit(come_and_stay) for _ in range(4)]
        for number in range(1, saves + 1):
            save(server, "edited/index.py", talk(f"version {number}"))
            eventually(lambda: f"version {number}" == _version(server), f"version {number}")  # noqa: B023
        for guest in guests:
            guest.result(30)
    assert len(ends) > 4
    assert [end for end in ends if end != NEWER] == []


def _version(server: Server) -> str:
    with server.client() as client:
        return client.get("/edited").text


def test_a_function_that_is_removed_closes_its_sockets_with_1001(server: Server) -> None:
    with dial(server, "/gone?name=last") as websocket:
        assert websocket.recv(20) == "one"
        (server.root / "functions" / "gone" / "index.py").unlink()
        assert ending(websocket) == REMOVED
    server.wait_for_log("last left one with 1001")


def test_a_new_engine_closes_nothing(server: Server) -> None:
    with dial(server, "/other") as websocket:
        assert websocket.recv(20) == "one"
        os.kill(server.pid_of("fn-engine"), signal.SIGKILL)
        server.wait_for_log("the engine is back")
        says(websocket, "still here")


# --- many ----------------------------------------------------------------------------------


def test_five_hundred_sockets_echo_and_one_that_does_not_read_disturbs_none(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(dial(server, "/crowd")) for _ in range(499)]
        assert {websocket.recv(20) for websocket in sockets} == {"one"}
        stack.enter_context(dial(server, "/crowd?flood", **LAZY))
        server.wait_for_log("the client does not read")
        for turn in range(2):
            for number, websocket in enumerate(sockets):
                websocket.send(f"{turn} {number}")
            answers = [websocket.recv(20) for websocket in sockets]
            assert answers == [f"{turn} {number}" for number in range(len(sockets))]
        assert server.metric()["functions"]["crowd"]["in_flight"] == 500


def test_a_socket_counts_as_a_request_and_who_finds_no_room_is_told_the_limit(server: Server) -> None:
    with dial(server, "/few") as one, dial(server, "/few") as two:
        assert one.recv(20) == two.recv(20) == "one"
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused, dial(server, "/few"):
            pass
        response = refused.value.response
        assert response.status_code == 429
        assert response.headers["retry-after"]
        told = json.loads(response.body or b"")
        assert told["code"] == "OVERLOADED"
        assert "2 requests and WebSockets at once (concurrency)" in told["message"]
    with dial(server, "/few") as next_one:
        assert next_one.recv(20) == "one"


# --- the server's end ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_s_end_closes_every_socket_with_1001(tmp_path: Path, number: int) -> None:
    functions = {"a": talk("one"), "b": talk("one")}
    config = "[ai]\npreload = []\n\n[edge_runtime]\nshutdown_s = 2\n"
    with serving(project(tmp_path, functions, config)) as server, contextlib.ExitStack() as stack:
        targets = ["/a?name=quick", "/a?name=slow&farewell=0.3", "/b?name=other"]
        sockets = [stack.enter_context(dial(server, target)) for target in targets]
        assert {websocket.recv(20) for websocket in sockets} == {"one"}
        stack.enter_context(dial(server, "/b?flood", **LAZY))
        server.wait_for_log("the client does not read")
        server.process.send_signal(number)
        assert [ending(websocket) for websocket in sockets] == [STOPPING] * 3
        assert server.process.wait(10) == 0
        for name in ("quick", "slow", "other"):
            server.wait_for_log(f"{name} left one with 1001 {STOPPING.reason}")
