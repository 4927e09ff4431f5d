"""As the `functions` service of a self-hosted Supabase: behind its gateway, with its environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runtime.project.keys import sign_role_key
from tests.docker import kong as kong_stand_in
from tests.docker.conftest import services
from tests.running import SECRET, Server, body, serving

ENVIRONMENT = """
import os

NAMES = ("SUPABASE_URL", "SUPABASE_DB_URL", "JWT_SECRET")

async def handler(request):
    environment = {name: os.environ.get(name) for name in NAMES}
    return {"path": request.url.path, "role": request.auth.get("role"), "environment": environment}
"""
TICKS = """
import asyncio

async def handler(request):
    async def ticks():
        yield "first "
        await asyncio.Event().wait()
    return ticks()
"""
# What docker-compose.yml of Supabase gives this service.
GIVEN = {
    "JWT_SECRET": SECRET,
    "SUPABASE_URL": "http://kong:8000",
    "SUPABASE_ANON_KEY": sign_role_key(SECRET, "anon"),
    "SUPABASE_SERVICE_ROLE_KEY": sign_role_key(SECRET, "service_role"),
    "SUPABASE_DB_URL": "postgresql://postgres:postgres@db:5432/postgres",
    "VERIFY_JWT": "true",
}
ANON = {"authorization": f"Bearer {GIVEN['SUPABASE_ANON_KEY']}", "apikey": GIVEN["SUPABASE_ANON_KEY"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is mounted at /home/deno: functions, the peer's among them, and nothing else."""
    home = tmp_path_factory.mktemp("deno")
    files = {"mine/index.py": ENVIRONMENT, "ticks/index.py": TICKS, "main/index.ts": "Deno.serve()"}
    for name, source in files.items():
        path = home / "functions" / name
        path.parent.mkdir(parents=True)
        path.write_text(source)
    return home


def flags() -> list[str]:
    """The override's command, but for what is different outside a container."""
    _, *command = services("compose.supabase.yaml")["functions"]["command"]
    elsewhere = {"--port", "--root"}
    pairs = zip(command[::2], command[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in elsewhere for word in pair]


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serving(home, *flags(), env=GIVEN) as server:
        yield server


@pytest.fixture(scope="module")
def kong(server: Server) -> Iterator[str]:
    """The address of functions as clients of Supabase know it."""
    upstream = server.url.removeprefix("http://")
    command = [sys.executable, kong_stand_in.__file__, "0", "/functions/v1", upstream]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/functions/v1"
        process.terminate()


def test_a_function_is_called_through_the_gateway_as_before(kong: str) -> None:
    answer = body(httpx2.post(f"{kong}/mine/7?x=1", headers=ANON, json={}))
    assert (answer["path"], answer["role"]) == ("/mine/7", "anon")
    assert httpx2.post(f"{kong}/mine", json={}).status_code == 401


def test_functions_find_the_project_where_supabase_says(kong: str) -> None:
    environment: dict[str, Any] = body(httpx2.get(f"{kong}/mine", headers=ANON))["environment"]
    assert environment == {
        "SUPABASE_URL": "http://kong:8000",
        "SUPABASE_DB_URL": GIVEN["SUPABASE_DB_URL"],
        "JWT_SECRET": None,
    }


def test_a_browser_s_preflight_is_answered(kong: str) -> None:
    asked = {"origin": "http://page", "access-control-request-method": "POST"}
    answer = httpx2.options(f"{kong}/mine", headers=asked)
    assert answer.status_code == 204
    assert "apikey" in answer.headers["access-control-allow-headers"]


def test_a_stream_arrives_while_it_is_made(kong: str) -> None:
    with httpx2.stream("GET", f"{kong}/ticks", headers=ANON) as answer:
        assert next(answer.iter_text()) == "first "


def test_the_peer_s_own_functions_are_left_alone(server: Server, kong: str) -> None:
    assert "functions/main is ignored" in server.log
    answer = httpx2.post(f"{kong}/main", headers=ANON)
    assert (answer.status_code, body(answer)["code"]) == (404, "NOT_FOUND")


def test_one_variable_lets_everybody_in_as_before_and_it_is_said(home: Path) -> None:
    with serving(home, *flags(), env=GIVEN | {"VERIFY_JWT": "false"}) as server:
        assert httpx2.get(f"{server.url}/mine").status_code == 200
        assert "every function answers without a key" in server.log
