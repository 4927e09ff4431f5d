"""What dies is started again, and whoever calls meanwhile waits instead of failing."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.engine import tiny
from tests.running import HELLO, Server, body, eventually, project, serving

from .users import ME

EMBED = """
session = ai.Session("tiny")

async def handler(request):
    text = request.query_params["input"]
    print(f"asking for {text}")
    return await session.run(text)
"""
BREAKING = """
from runtime.ai import host

session = ai.Session("tiny")

async def handler(request):
    await session.run("hello")
    host.current().engine._line._transport.write(b"\\x05\\0\\0\\0hello")
    return await session.run("hello")
"""
LIVES = ["fn-gateway", "fn-engine", "fn-template", "fn:hello"]


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Server]:
    with ME.folder() as folder:
        config = f'[ai]\npreload = ["tiny"]\nmodels_dir = "{models_dir}"\n'
        root = project(folder / "project", {"hello": HELLO, "embed": EMBED}, config)
        with ME.serving(root) as server:
            yield server


def kill(server: Server, name: str) -> int:
    pid = server.pid_of(name)
    os.kill(pid, signal.SIGKILL)
    return pid


def replaced(server: Server, name: str, pid: int) -> None:
    eventually(lambda: server.pid_of(name) != pid, f"another {name}")


def says_hello(server: Server) -> bool:
    """With a connection of its own, as after a restart of the gateway every client needs one."""
    with server.client() as client:
        return body(client.post("/hello", json={"name": "again"})) == {"message": "Hello again!"}


@pytest.mark.parametrize("name", LIVES)
def test_a_killed_process_is_replaced_and_the_next_request_is_answered(server: Server, name: str) -> None:
    pid = kill(server, name)
    # No retry: the port is still open, and what arrives waits.
    assert says_hello(server)
    replaced(server, name, pid)
    assert says_hello(server)


def test_a_killed_template_forks_again(server: Server) -> None:
    template = kill(server, "fn-template")
    worker = kill(server, "fn:hello")
    assert says_hello(server)
    replaced(server, "fn-template", template)
    replaced(server, "fn:hello", worker)


def test_the_tree_is_whole_again_when_everything_but_the_supervisor_died(server: Server) -> None:
    before = {kill(server, name) for name in (*LIVES, "fn:embed")}
    assert says_hello(server)

    def is_whole() -> bool:
        names = sorted(name for pid, name in server.family().items() if pid not in before)
        return names == sorted([*LIVES, "fn:embed", "fn-supervisor"])

    eventually(is_whole, "one process of each kind")


def test_embeddings_come_again_after_the_death_of_the_engine(server: Server) -> None:
    with server.client() as client:
        before = client.get("/embed", params={"input": "hello"}).json()
        worker = server.pid_of("fn:embed")
        pid = kill(server, "fn-engine")
        assert client.get("/embed", params={"input": "hello"}).json() == pytest.approx(before)
        replaced(server, "fn-engine", pid)
        assert server.pid_of("fn:embed") == worker  # no function was restarted for it


def test_a_worker_that_comes_after_a_new_engine_finds_it(server: Server) -> None:
    with server.client() as client:
        before = client.get("/embed", params={"input": "hello"}).json()
        engine = kill(server, "fn-engine")
        replaced(server, "fn-engine", engine)
        worker = kill(server, "fn:embed")
        replaced(server, "fn:embed", worker)
        assert client.get("/embed", params={"input": "hello"}).json() == pytest.approx(before)


@contextmanager
def in_background(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def test_a_call_that_waits_for_the_engine_when_it_dies_is_asked_again(server: Server) -> None:
    with server.client() as client:
        before = client.get("/embed", params={"input": "father"}).json()
        engine = psutil.Process(server.pid_of("fn-engine"))
        engine.suspend()
        asked = server.log.count("asking for father")
        with in_background(lambda: client.get("/embed", params={"input": "father"})) as answer:
            server.wait_for_log("asking for father", asked + 1)
            engine.kill()
            assert answer.result(20).json() == pytest.approx(before)


def test_a_worker_whose_connection_to_the_engine_breaks_gets_another(models_dir: Path) -> None:
    config = f'[ai]\npreload = ["tiny"]\nmodels_dir = "{models_dir}"\n'
    with ME.folder() as folder:
        root = project(folder / "project", {"breaking": BREAKING}, config)
        with ME.serving(root, "--log-format", "json") as server, server.client() as client:
            engine, worker = server.pid_of("fn-engine"), server.pid_of("fn:breaking")
            for _ in range(2):
                assert len(client.get("/breaking").json()) == tiny.HIDDEN
            assert (server.pid_of("fn-engine"), server.pid_of("fn:breaking")) == (engine, worker)
            server.wait_for_log("the engine: a connection is closed, for what came over it is no call", 2)
            kill(server, "fn-engine")
            server.wait_for_log("engine ended (SIGKILL)")
            replaced(server, "fn-engine", engine)
            assert all(json.loads(line)["level"] for line in server.log.splitlines())


def test_a_broken_model_is_told_of_in_the_log_and_not_to_clients(models_dir: Path) -> None:
    with ME.folder() as folder:
        root = project(folder / "project", {"embed": EMBED.replace("tiny", "./own")})
        tiny.write_folder(root / "own")
        (root / "own" / "model.safetensors").write_bytes(b"nothing")
        with ME.serving(root) as server, server.client() as client:
            error = body(client.get("/embed", params={"input": "x"}))
            assert error["code"] == "MODEL_BROKEN"
            assert error["message"] == "The model 'own' cannot be loaded; the server's log says why"
            server.wait_for_log(f"ModelBroken: {root}/own")


def test_workers_that_came_before_a_new_gateway_are_gone(server: Server) -> None:
    old = server.pid_of("fn:hello")
    kill(server, "fn-gateway")
    assert says_hello(server)
    eventually(lambda: old not in server.family(), "the end of the old gateway's worker")
    metric = server.metric()
    assert metric["functions"]["hello"]["workers"] == 1
    assert list(server.family().values()).count("fn:hello") == 1


def test_a_worker_that_ends_takes_what_it_started_and_wrote_with_it() -> None:
    source = """
import os, subprocess

async def handler(request):
    open("file", "w").close()
    leader = subprocess.Popen(["sleep", "600"], start_new_session=True)
    return {"pid": leader.pid, "worker": os.getpid(), "folder": os.getcwd()}
"""
    with (
        ME.folder() as folder,
        ME.serving(project(folder / "project", {"spawn": source})) as server,
        server.client() as client,
    ):
        left = body(client.get("/spawn"))
        os.kill(left["worker"], signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(left["pid"]), "the end of what the worker started")
        eventually(lambda: not Path(left["folder"]).exists(), "the end of its folder")
        assert body(client.get("/spawn"))["worker"] != left["worker"]


def test_a_new_gateway_removes_the_folders_of_the_old_ones_workers() -> None:
    with ME.folder() as folder, ME.serving(project(folder / "project", {"hello": HELLO})) as server:
        [temp] = (folder / "tmp").iterdir()
        before = set(temp.iterdir())
        assert len(before) == 1
        kill(server, "fn-gateway")
        assert says_hello(server)
        assert len(list(temp.iterdir())) == 1
        assert not before & set(temp.iterdir())


def test_an_engine_that_keeps_dying_is_started_ever_later_and_hurts_no_function_without_models() -> None:
    waits = re.compile(r"engine ended \(SIGKILL\); starting it again(?: in ([\d.]+) s)?")
    with ME.folder() as folder, ME.serving(project(folder / "project", {"hello": HELLO})) as server:
        over = threading.Event()

        def keep_killing() -> None:
            while not over.is_set():
                for pid, name in server.family().items():
                    if name == "fn-engine":
                        os.kill(pid, signal.SIGKILL)

        with in_background(keep_killing) as killing:
            try:
                while len(waits.findall(server.log)) < 4:
                    assert not killing.done()
                    assert says_hello(server)
            finally:
                over.set()
        assert [float(wait or 0) for wait in waits.findall(server.log)][:4] == [0, 0.1, 0.2, 0.4]
        server.pid_of("fn-engine")


def test_a_function_boots_without_an_engine_and_meets_it_later(models_dir: Path) -> None:
    """The engine is stopped, not dead: nobody answers, but functions are wanted now."""
    with ME.folder() as folder:
        config = f'[ai]\npreload = ["tiny"]\nmodels_dir = "{models_dir}"\n'
        root = project(folder / "project", {"hello": HELLO, "embed": EMBED}, config)
        with serving(root) as server, server.client() as client:
            engine = psutil.Process(server.pid_of("fn-engine"))
            engine.suspend()
            os.kill(server.pid_of("fn:hello"), signal.SIGKILL)
            assert says_hello(server)
            engine.kill()
            assert len(client.get("/embed", params={"input": "hello"}).json()) == 16


def test_the_gateway_says_that_it_is_back(server: Server) -> None:
    count = server.log.count("the gateway is back")
    kill(server, "fn-gateway")
    server.wait_for_log("the gateway is back", count + 1)
    assert httpx2.get(f"{server.url}/_internal/ready").status_code == 200
