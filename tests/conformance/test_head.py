"""HEAD: the head of what GET would answer, and an end to it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import httpx2
import pytest

from tests.running import Server, eventually, project, serving

ENDLESS = """
import asyncio
from runtime import StreamingResponse

async def endless(wait):
    print("generator begins")
    try:
        while True:
            yield "piece"
            if wait:
                await asyncio.sleep(wait)
    finally:
        print("generator ended")

def blocking():
    print("generator begins")
    try:
        while True:
            yield "piece"
    finally:
        print("generator ended")

async def fails():
    raise ValueError("before the first piece")
    yield ""

async def handler(request):
    match request.url.path.rpartition("/")[2]:
        case "waiting":
            return endless(3600)
        case "restless":
            return endless(0)
        case "blocking":
            return blocking()
        case "starlette":
            return StreamingResponse(endless(3600), headers={"x-told": "yes"})
        case "sized":
            return StreamingResponse(endless(3600), headers={"content-length": "1000"})
        case "fails":
            return fails()
    return {"message": "hello"}
"""
APP = """
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

async def later():
    print("background task ran")

async def endless():
    while True:
        yield b"piece"

async def plain(request):
    return PlainTextResponse("twelve bytes", background=BackgroundTask(later))

async def stream(request):
    return Ending(endless())

class Ending(StreamingResponse):
    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            print(scope["root_path"].rpartition("/")[2], "ended its stream")

async def through(request, call_next):
    return await call_next(request)

routes = [Route("/plain", plain), Route("/stream", stream)]
app = Starlette(routes=routes)
"""
MIDDLEWARE = "app.add_middleware(BaseHTTPMiddleware, dispatch=through)\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"endless": ENDLESS, "app": APP, "app-middleware": APP + MIDDLEWARE}
    with serving(project(tmp_path_factory.mktemp("head"), functions)) as server:
        yield server


@pytest.fixture
def connection(server: Server) -> Iterator[http.client.HTTPConnection]:
    url = httpx2.URL(server.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=10)
    yield connection
    connection.close()


def ask(server: Server, connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, bytes]:
    """The answer on this one connection; http.client would open another if it had closed."""
    before = connection.sock
    headers = {"authorization": f"Bearer {server.token()}"}
    connection.request(method, f"/functions/v1/{path}", headers=headers)
    assert before is None or connection.sock is before
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize(
    "path",
    ["endless/waiting", "endless/restless", "endless/blocking", "endless/starlette", "endless/sized"],
)
def test_a_head_ends_the_stream_that_it_does_not_want(
    server: Server, connection: http.client.HTTPConnection, path: str
) -> None:
    ended = server.log.count("generator ended")
    assert ask(server, connection, "HEAD", path) == (200, b"")
    assert ask(server, connection, "GET", "endless/plain") == (200, b'{"message":"hello"}')
    server.wait_for_log("generator ended", ended + 1)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("app", ["app", "app-middleware"])
def test_a_head_ends_the_stream_of_an_application(
    server: Server, connection: http.client.HTTPConnection, app: str
) -> None:
    assert ask(server, connection, "HEAD", f"{app}/stream") == (200, b"")
    assert ask(server, connection, "GET", f"{app}/plain") == (200, b"twelve bytes")
    server.wait_for_log(f"{app} ended its stream")


@pytest.mark.parametrize("app", ["app", "app-middleware"])
def test_a_head_tells_the_length_and_lets_background_tasks_run(server: Server, app: str) -> None:
    ran = server.log.count("background task ran")
    with server.client() as client:
        response = client.head(f"/{app}/plain")
    assert (response.status_code, response.headers["content-length"]) == (200, "12")
    server.wait_for_log("background task ran", ran + 1)


def test_a_head_is_answered_as_its_get_would_be(server: Server) -> None:
    with server.client() as client:
        for path in ("", "/starlette"):
            with client.stream("GET", f"/endless{path}") as got:
                pass
            head = client.head(f"/endless{path}")
            for response in (got, head):
                for name in ("date", "sb-request-id", "transfer-encoding"):
                    response.headers.pop(name, None)
            assert head.headers == got.headers
        assert client.head("/endless/fails").status_code == client.get("/endless/fails").status_code == 500


def in_flight(server: Server, name: str) -> int:
    return int(server.metric()["functions"][name]["in_flight"])


def test_nothing_of_a_head_stays_in_flight(server: Server, connection: http.client.HTTPConnection) -> None:
    for _ in range(5):
        assert ask(server, connection, "HEAD", "endless/restless") == (200, b"")
    assert ask(server, connection, "GET", "endless/plain")[0] == 200
    eventually(lambda: in_flight(server, "endless") == 0, "the end of every request")
