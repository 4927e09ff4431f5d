"""What each process has loaded: a process that never runs a model does not carry one's libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.running import HELLO, Server, body, project

from .users import IS_ROOT, ME

INFERENCE = {"numpy", "onnxruntime", "tokenizers", "onnx", "safetensors"}
HTTP_SERVER = {"uvicorn", "httptools", "websockets"}
KEYS = {"jwt", "cryptography"}
COMMAND_LINE = {"click", "rich"}
FILES = {"watchfiles", "dotenv", "tomllib"}
EVERYTHING = INFERENCE | HTTP_SERVER | KEYS | COMMAND_LINE | FILES
LOADED = """
import sys

async def handler(request):
    return {"modules": sorted(sys.modules)}
"""
# What a process may not load, by the module that it starts from.
ABSENT = {
    "runtime.supervisor.keeper": EVERYTHING | {"asyncio", "msgspec"},
    "runtime.supervisor.supervisor": EVERYTHING
    | {"asyncio", "starlette", "uvloop", "httpx2", "ssl", "anyio"},
    "runtime.gateway.main": INFERENCE | {"rich"},  # click comes with uvicorn
    "runtime.worker.template": EVERYTHING,
    "runtime.engine.main": INFERENCE - {"numpy"} | HTTP_SERVER | KEYS | COMMAND_LINE | {"starlette"},
}


@pytest.mark.parametrize("module", ABSENT)
def test_a_process_loads_nothing_that_it_does_not_need(module: str) -> None:
    code = f"import {module}, sys; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    roots = {name.split(".")[0] for name in loaded.stdout.split()}
    assert "runtime" in roots
    assert not roots & ABSENT[module]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with ME.folder() as folder:
        root = project(folder / "project", {"loaded": LOADED, "hello": HELLO})
        with ME.serving(root) as server:
            yield server


def test_a_running_worker_has_no_module_that_it_does_not_need(server: Server) -> None:
    with server.client() as client:
        roots = {name.split(".")[0] for name in body(client.get("/loaded"))["modules"]}
    assert {"runtime", "starlette", "uvloop", "httpx2"} <= roots
    assert not roots & ABSENT["runtime.worker.template"]


@pytest.mark.skipif(not IS_ROOT, reason="the server's processes hide from everybody but root")
@pytest.mark.parametrize(
    ("process", "absent"),
    [
        ("fn-keeper", {*INFERENCE, "uvloop", "_ssl", "httptools", "_asyncio"}),
        ("fn-supervisor", {*INFERENCE, "uvloop", "_ssl", "httptools", "_asyncio"}),
        ("fn-gateway", INFERENCE),
        ("fn-template", {*INFERENCE, "httptools", "cryptography"}),
        ("fn:hello", {*INFERENCE, "httptools", "cryptography"}),
    ],
)
def test_a_running_process_maps_no_library_that_it_does_not_need(
    server: Server, process: str, absent: set[str]
) -> None:
    with server.client() as client:
        assert client.post("/hello", json={"name": "x"}).status_code == 200
    pid = server.pid if process == "fn-keeper" else server.pid_of(process)
    with open(f"/proc/{pid}/maps") as file:
        libraries = {line.split()[-1] for line in file if ".so" in line}
    # A library belongs to every package in its path: …/numpy/_core/x.so, …/_ssl.cpython.so
    parts = {part.split(".")[0] for path in libraries for part in path.split(os.sep)}
    assert "msgspec" in parts
    assert not parts & absent
