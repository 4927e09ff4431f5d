"""Whatever ends the server, it leaves no process and no file behind."""

from __future__ import annotations

import os
import pty
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.running import Server, body, eventually, project, serving

from .users import ME, USERS, User

# Starts what a function can start: a child, a child in a session of its own, and a daemon
# that nobody waits for; and leaves a file.
SPAWN = """
import os, subprocess

DAEMON = "setsid sh -c 'sleep 600 & echo $!' &"

async def handler(request):
    child = subprocess.Popen(["sleep", "600"])
    leader = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open(os.path.join(os.environ["TMPDIR"], "left"), "w") as file:
        file.write("something")
    shell = subprocess.Popen(["sh", "-c", DAEMON], stdout=subprocess.PIPE)
    daemon = int(shell.stdout.readline())
    return {"pids": [child.pid, leader.pid, daemon], "file": file.name}
"""
# Answers when the whole body is here: the client holds the request open.
WAIT = """
async def handler(request):
    print("begun")
    body = await request.body()
    return {"size": len(body)}
"""
ENDLESS = """
import asyncio

async def handler(request):
    while True:
        yield "more"
        await asyncio.sleep(0.01)
"""
QUICK = "[ai]\npreload = []\n[edge_runtime]\nshutdown_s = 1\n"


def is_gone(pid: int) -> bool:
    """Ended; whether the machine's init has reaped it is not ours to say."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def keeper(server: Server) -> int:
    return server.pid


def supervisor(server: Server) -> int:
    return server.pid_of("fn-supervisor")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("number", "target", "status"),
    [
        (signal.SIGTERM, keeper, 0),
        (signal.SIGINT, keeper, 0),
        (signal.SIGHUP, keeper, 0),
        (signal.SIGKILL, keeper, -signal.SIGKILL),
        (signal.SIGKILL, supervisor, 128 + signal.SIGKILL),
    ],
    ids=["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "SIGKILL-supervisor"],
)
def test_nothing_is_left(
    user: User, number: signal.Signals, target: Callable[[Server], int], status: int
) -> None:
    with user.folder() as folder:
        root = project(folder / "project", {"spawn": SPAWN})
        with user.serving(root) as server, server.client() as client:
            left = body(client.get("/spawn"))
            pids = {server.pid, *server.family(), *left["pids"]}
            assert len(pids) >= 9  # five of ours, a worker, and what the function started
            assert not any(is_gone(pid) for pid in left["pids"])
            assert Path(left["file"]).is_relative_to(folder / "tmp")
            os.kill(target(server), number)
            assert server.process.wait(20) == status
            eventually(lambda: all(is_gone(pid) for pid in pids), "the end of every process")
            eventually(lambda: not os.listdir(folder / "tmp"), "the end of every file")


@contextmanager
def begun(server: Server, path: str = "/wait") -> Iterator[tuple[threading.Event, dict[str, Any]]]:
    """A request whose handler runs until the event is set; `answer` or `error` tells its end."""
    finish = threading.Event()
    result: dict[str, Any] = {}

    def content() -> Iterator[bytes]:
        yield b"first,"
        finish.wait(30)
        yield b"last"

    def call() -> None:
        try:
            with server.client() as client:
                result["answer"] = client.post(path, content=content())
        except httpx2.TransportError as error:
            result["error"] = error

    thread = threading.Thread(target=call)
    thread.start()
    try:
        server.wait_for_log("begun")
        yield finish, result
    finally:
        finish.set()
        thread.join()


def refuses(server: Server) -> bool:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_is_in_flight_finishes_while_new_connections_are_refused(
    number: signal.Signals,
) -> None:
    with ME.folder() as folder, ME.serving(project(folder / "project", {"wait": WAIT})) as server:
        with begun(server) as (finish, result):
            server.process.send_signal(number)
            eventually(lambda: refuses(server), "a closed port")
            finish.set()
            assert server.process.wait(20) == 0
        assert result["answer"].json() == {"size": len("first,last")}


def test_a_second_ctrl_c_stops_at_once() -> None:
    with ME.folder() as folder, ME.serving(project(folder / "project", {"wait": WAIT})) as server:
        with begun(server) as (_, result):
            server.process.send_signal(signal.SIGINT)
            server.wait_for_log("shutting down")
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(5) == 0  # the first would have waited for 10 seconds
        assert "error" in result or result["answer"].status_code == 500
        assert not os.listdir(folder / "tmp")


def test_an_endless_stream_is_broken_off_within_the_time_for_shutdown() -> None:
    with ME.folder() as folder:
        root = project(folder / "project", {"endless": ENDLESS}, QUICK)
        with (
            ME.serving(root) as server,
            server.client() as client,
            client.stream("GET", "/endless") as stream,
        ):
            pieces = stream.iter_bytes()
            assert next(pieces)
            server.process.send_signal(signal.SIGTERM)
            # Broken, not ended: nobody shall take what came for the whole of it.
            with pytest.raises(httpx2.RemoteProtocolError):
                for _ in pieces:
                    pass
            assert server.process.wait(5) == 0


@contextmanager
def on_a_terminal(folder: Path) -> Iterator[tuple[Server, int]]:
    """A server in the foreground of a terminal, and the terminal's other end."""
    ours, theirs = pty.openpty()
    # The leader of a session gets the first terminal that it opens.
    take = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
    try:
        with serving(
            project(folder / "project", {"wait": WAIT}),
            env={"TMPDIR": str(folder / "tmp")},
            via=(sys.executable, "-c", take),
            stdin=theirs,
            start_new_session=True,
        ) as server:
            yield server, ours
    finally:
        os.close(theirs)


def test_ctrl_c_in_a_terminal_lets_requests_finish() -> None:
    """The terminal sends SIGINT to every process in its foreground, not to the server alone."""
    with ME.folder() as folder, on_a_terminal(folder) as (server, ours):
        pids = {server.pid, *server.family()}
        with begun(server) as (finish, result):
            os.write(ours, b"\x03")
            server.wait_for_log("shutting down")
            finish.set()
            assert server.process.wait(20) == 0
        os.close(ours)
        assert result["answer"].status_code == 200
        eventually(lambda: all(is_gone(pid) for pid in pids), "the end of every process")
        assert not os.listdir(folder / "tmp")


def test_closing_the_terminal_ends_the_server() -> None:
    with ME.folder() as folder, on_a_terminal(folder) as (server, ours):
        pids = {server.pid, *server.family()}
        os.close(ours)
        assert server.process.wait(20) == 0
        eventually(lambda: all(is_gone(pid) for pid in pids), "the end of every process")
        assert not os.listdir(folder / "tmp")


def test_a_stop_before_the_server_is_ready_leaves_nothing() -> None:
    with ME.folder() as folder:
        root = project(folder / "project", {"wait": WAIT})
        server = Server(root, env={"TMPDIR": str(folder / "tmp")})
        server.pid_of("fn-supervisor")
        pids = {server.pid, *server.family()}
        assert server.stop(signal.SIGTERM) == 0
        assert all(is_gone(pid) for pid in pids)
        assert not os.listdir(folder / "tmp")
