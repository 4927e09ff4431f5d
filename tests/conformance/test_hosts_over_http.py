"""Which Host names a server on loopback answers to: the defence against DNS rebinding."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import httpx2
import pytest
import websockets.exceptions
from websockets.sync.client import connect

from tests.conformance.wire import Wire, is_whole
from tests.running import Server, project, serving

GREETER = "async def handler(request):\n    print('called')\n    return 'hello'"
CONFIG = """
[ai]
preload = []
[edge_runtime]
hosts = ["my-machine.local", "Dev.Example"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project(tmp_path_factory.mktemp("hosts"), {"hello": GREETER}, CONFIG)) as server:
        yield server


SERVED = [
    *("localhost", "127.0.0.1", "[::1]", "host.docker.internal", "my-machine.local", "dev.example"),
    *("LOCALHOST", "localhost.", "localhost:54321", "127.0.0.1:1", "[::1]:80", "DEV.EXAMPLE:8000"),
]
NOT_SERVED = [
    *("evil.example", "evil.example:54321", "localhost.evil.example", "evil-localhost", "127.0.0.1.nip.io"),
    *("127.0.0.2", "0.0.0.0", "[::]", "2130706433", "127.1", "example", "my-machine.local.evil.example"),
    *("", "localhost evil.example", "localhost,evil.example", "evil.example@localhost", "localhost/x"),
]


@pytest.mark.parametrize("host", SERVED)
def test_local_and_configured_names_are_served(wire: Wire, host: str) -> None:
    wire.ask("GET", "/functions/v1/hello", f"Host: {host}")
    assert wire.answer().body == b"hello"


@pytest.mark.parametrize("host", NOT_SERVED)
@pytest.mark.parametrize("path", ["/functions/v1/hello", "/functions/v1/nope", "/_internal/health"])
def test_no_other_name_is_served_and_the_answer_says_how_to_allow_it(
    wire: Wire, host: str, path: str
) -> None:
    wire.ask("GET", path, f"Host: {host}")
    answer = wire.answer()
    is_whole(answer.json(), answer.status, "BAD_REQUEST", answer.headers)
    assert "`[edge_runtime] hosts`" in answer.json()["message"]


def test_the_function_is_not_called_for_a_page_that_rebound_its_name(
    dial: Callable[[], Wire], server: Server
) -> None:
    called = server.log.count("called")
    for headers in (["Host: evil.example"], ["Host: evil.example", "Origin: http://evil.example"]):
        wire = dial()
        wire.ask("POST", "/functions/v1/hello", *headers, body=b"{}")
        assert wire.answer().status == 400
    wire = dial()
    wire.ask("GET", "/functions/v1/hello")
    assert wire.answer().status == 200
    server.wait_for_log("called", called + 1)
    assert server.log.count("called") == called + 1


def test_a_preflight_is_checked_the_same_way(wire: Wire) -> None:
    wire.ask(
        "OPTIONS",
        "/functions/v1/hello",
        "Host: evil.example",
        "Origin: http://evil.example",
        "Access-Control-Request-Method: POST",
        key=False,
    )
    answer = wire.answer()
    is_whole(answer.json(), answer.status, "BAD_REQUEST", answer.headers)
    assert "access-control-allow-origin" not in answer.headers


def test_one_host_header_and_no_more(dial: Callable[[], Wire], server: Server) -> None:
    for head in (
        b"GET /functions/v1/hello HTTP/1.1\r\n\r\n",
        b"GET /functions/v1/hello HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /functions/v1/hello HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /functions/v1/hello HTTP/1.0\r\n\r\n",
    ):
        wire = dial()
        wire.send(head)
        assert wire.answer().status == 400


def test_a_websocket_is_checked_the_same_way(server: Server) -> None:
    url = f"{server.functions}/hello".replace("http://127.0.0.1", "ws://evil.example")
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with (
        socket.create_connection(address) as sock,
        pytest.raises(websockets.exceptions.InvalidStatus) as refusal,
        connect(url, sock=sock, proxy=None),
    ):
        pass
    assert refusal.value.response.status_code == 400


def test_a_forwarded_host_counts_for_nothing(dial: Callable[[], Wire]) -> None:
    for header in ("X-Forwarded-Host: localhost", "Forwarded: host=localhost"):
        wire = dial()
        wire.ask("GET", "/functions/v1/hello", "Host: evil.example", header)
        assert wire.answer().status == 400


def test_bound_to_every_address_any_name_is_served(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = project(tmp_path_factory.mktemp("public"), {"hello": GREETER})
    with serving(root, "--host", "0.0.0.0") as server:
        headers = {"host": "functions.example", "authorization": f"Bearer {server.token()}"}
        assert httpx2.get(f"{server.functions}/hello", headers=headers).text == "hello"
