"""An exported application: hooks, WebSockets and compression beside it, over a real server."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.running import Server, project, serving

APP = """
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
import gzip

order = ["module"]

def startup():
    order.append("startup")

async def before_unload(reason):
    print("unload:", reason)

@asynccontextmanager
async def lifespan(app):
    order.append("lifespan")
    yield
    print("lifespan is over")

async def show(request):
    return PlainTextResponse(",".join(order))

async def large(request):
    return PlainTextResponse("large " * 1000)

async def ready_made(request):
    return Response(gzip.compress(b"ready " * 1000), headers={"content-encoding": "gzip"})

app = Starlette(
    routes=[Route("/", show), Route("/large", large), Route("/ready-made", ready_made)],
    middleware=[Middleware(GZipMiddleware)],
    lifespan=lifespan,
)
"""
PLAIN = """
import gzip
from runtime import Response

async def handler(request):
    if request.url.path.endswith("/gzip"):
        return Response(gzip.compress(b"plain " * 1000), headers={"content-encoding": "gzip"})
    return "plain " * 1000
"""
BESIDE = """
async def app(scope, receive, send): ...
async def websocket(ws): ...
"""
FASTAPI = """
import warnings
warnings.simplefilter("ignore")
from fastapi import FastAPI, WebSocket

app = FastAPI()
calls = []

@app.on_event("startup")
async def startup():
    calls.append(1)

@app.websocket("/ws")
async def websocket(websocket: WebSocket):
    await websocket.accept()

@app.get("/")
async def show():
    return calls
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    sources = {"app": APP, "plain": PLAIN, "beside": BESIDE, "fast": FASTAPI}
    with serving(project(tmp_path_factory.mktemp("apps"), sources)) as server:
        yield server


def raw(client: httpx2.Client, path: str, accept: str = "gzip") -> tuple[httpx2.Response, bytes]:
    """A response and its bytes as they were on the wire."""
    with client.stream("GET", path, headers={"accept-encoding": accept}) as response:
        return response, b"".join(response.iter_raw())


def test_the_hooks_stand_around_the_lifespan(tmp_path: Path) -> None:
    with serving(project(tmp_path, {"app": APP})) as server:
        with server.client() as client:
            assert client.get("/app").text == "module,startup,lifespan"
        assert server.stop() == 0
        assert server.log.index("unload: termination") < server.log.index("lifespan is over")


def test_an_app_compresses_for_itself(client: httpx2.Client) -> None:
    response, data = raw(client, "/app/large")
    assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(data) == b"large " * 1000
    response, data = raw(client, "/app/large", "identity")
    assert "content-encoding" not in response.headers
    assert data == b"large " * 1000


@pytest.mark.parametrize(("path", "word"), [("/app/ready-made", b"ready "), ("/plain/gzip", b"plain ")])
def test_nothing_is_compressed_twice(client: httpx2.Client, path: str, word: bytes) -> None:
    response, data = raw(client, path)
    assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(data) == word * 1000


def test_the_server_compresses_nothing(client: httpx2.Client) -> None:
    response, data = raw(client, "/plain", "gzip, br, zstd")
    assert "content-encoding" not in response.headers
    assert data == b"plain " * 1000


def test_a_websocket_function_beside_an_app_is_a_boot_error(server: Server, client: httpx2.Client) -> None:
    response = client.get("/beside")
    assert (response.status_code, response.json()["code"]) == (503, "BOOT_ERROR")
    assert "exports `websocket` beside `app`, which handles its own WebSockets" in server.log


def test_functions_of_these_names_that_belong_to_the_app_are_left_to_it(client: httpx2.Client) -> None:
    response = client.get("/fast/")
    assert (response.status_code, response.json()) == (200, [1])
