"""What a function starts can be stopped, although its own process leaves signals to the supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import httpx2
import pytest

from tests.running import Server, body, eventually, project, serving

PROGRAM = """
import asyncio, subprocess

async def handler(request):
    program = subprocess.Popen(["sleep", "60"])
    program.send_signal(int(request.query_params["number"]))
    return {"status": await asyncio.to_thread(program.wait)}
"""
FORK = """
import asyncio, multiprocessing, time

async def handler(request):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    await asyncio.to_thread(process.join)
    return {"status": process.exitcode}
"""
STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = project(tmp_path_factory.mktemp("signals"), {"program": PROGRAM, "fork": FORK})
    with serving(root) as server:
        yield server


@pytest.mark.parametrize("number", STOPPING)
def test_a_program_that_a_function_starts_heeds_signals(server: Server, number: int) -> None:
    with server.client() as client:
        assert body(client.get("/program", params={"number": int(number)})) == {"status": -number}


def test_a_process_that_a_function_forks_can_be_terminated(server: Server) -> None:
    with server.client() as client:
        assert body(client.get("/fork")) == {"status": -signal.SIGTERM}


def test_the_servers_own_processes_leave_signals_to_the_supervisor(server: Server) -> None:
    def family() -> dict[int, str]:
        return {pid: name for pid, name in server.family().items() if name != "fn-supervisor"}

    before = family()
    assert {"fn-gateway", "fn-engine", "fn-template", "fn:program"} <= set(before.values())
    for pid in before:
        for number in STOPPING:
            os.kill(pid, number)
    with server.client() as client:
        assert body(client.get("/fork")) == {"status": -signal.SIGTERM}
    eventually(lambda: httpx2.get(f"{server.url}/_internal/ready").status_code == 200, "readiness")
    assert family() == before
