"""Heads that are too large, too slow or no HTTP are refused, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from runtime.gateway import guard
from runtime.gateway.guard import guarded
from runtime.project.settings import Cors
from tests.gateway.sockets import Client, Reply, Server, eventually, serving

pytestmark = pytest.mark.anyio

HEAD_BYTES = 16 * 1024
HEAD_S = 0.3
GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SOCKET = (
    b"GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class App:
    """Echoes; or streams, as the test lets it."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        kinds = {"/socket": self.socket, "/stream": self.stream, "/read-late": self.read_late}
        kinds |= {"/break": self.breaks, "/break-large": self.breaks_large}
        await kinds.get(scope["path"], self.echo)(scope, receive, send)

    async def echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        if message["type"] == "http.disconnect":
            self.left.set()
            return
        told = {"body": len(body + message["body"]), "headers": len(scope["headers"])}
        content = json.dumps(told).encode()
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def read_late(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.go_on.wait()
        await self.echo(scope, receive, send)

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async def breaks(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"last", "more_body": True})

    async def breaks_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(20_000_000), "more_body": True})

    async def socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        message: Message = await receive()
        await send({"type": "websocket.send", "text": message.get("text")})


class House(Server):
    """A server with its application and what the guard refused."""

    app: App
    refused: list[int]

    async def let_the_head_limit_pass(self) -> None:
        """A clock that can be seen: a silent client that comes now is refused."""
        async with self.client() as silent:
            assert (await silent.reply()).status == 408
            self.refused.remove(408)


@contextlib.asynccontextmanager
async def house(max_bytes: int = HEAD_BYTES, head_s: float = HEAD_S, **options: Any) -> AsyncIterator[House]:
    refused: list[int] = []
    app = App()
    async with serving(app, guarded(max_bytes, head_s, refused.append, **options)) as server:
        home = House(server.port, server.state)
        home.app, home.refused = app, refused
        yield home


@pytest.fixture
async def server() -> AsyncIterator[House]:
    async with house() as home:
        yield home


async def expect_refusal(client: Client, status: int, code: str) -> Reply:
    """Our own answer, and then a clean end of the connection."""
    reply = await client.reply()
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.headers["sb-error-code"] == code
    assert reply.headers["x-relay-error"] == "true"
    assert reply.headers["connection"] == "close"
    assert reply.json["request_id"] == reply.headers["sb-request-id"]
    assert await client.rest() == b""
    return reply


def padded(head: bytes, size: int) -> bytes:
    """The head with a header that makes it this long."""
    return head + b"X-Pad: " + b"x" * (size - len(head) - len("X-Pad: \r\n\r\n")) + b"\r\n\r\n"


# --- too slow ------------------------------------------------------------------------------


async def test_a_silent_client_gets_a_408(server: House) -> None:
    async with server.client() as client:
        await expect_refusal(client, 408, "REQUEST_TIMEOUT")
    assert server.refused == [408]
    assert server.app.scopes == []


@pytest.mark.parametrize("head", [GET, SOCKET], ids=["http", "websocket"])
async def test_a_client_that_dribbles_its_head_gets_a_408(server: House, head: bytes) -> None:
    async with server.client() as client:
        answer = asyncio.create_task(expect_refusal(client, 408, "REQUEST_TIMEOUT"))
        for byte in head[:-1] * 100:
            if server.refused:
                break
            await client.send(bytes([byte]) if byte not in b"\r\n" else b"x")
            await asyncio.wait([answer], timeout=0.02)
        await answer


async def test_a_client_that_sends_nothing_but_line_ends_gets_a_408(server: House) -> None:
    async with server.client() as client:
        await client.ask(GET)
        await client.send(b"\r\n")
        await expect_refusal(client, 408, "REQUEST_TIMEOUT")


async def test_the_head_of_a_later_request_has_its_own_time(server: House) -> None:
    async with server.client() as client:
        assert (await client.ask(GET)).status == 200
        await server.let_the_head_limit_pass()
        assert (await client.ask(GET)).status == 200
        await client.send(GET[:10])
        await expect_refusal(client, 408, "REQUEST_TIMEOUT")
    assert len(server.app.scopes) == 2


async def test_a_slow_body_is_not_a_slow_head(server: House) -> None:
    async with server.client() as client:
        await client.send(POST + b"Content-Length: 6\r\n\r\nabc")
        await server.let_the_head_limit_pass()
        assert (await client.ask(b"def")).json["body"] == 6
    assert server.refused == []


async def test_a_stream_may_be_longer_than_the_limit(server: House) -> None:
    async with server.client() as client:
        await client.send(GET.replace(b"/echo", b"/stream"))
        await client.until(b"first")
        await server.let_the_head_limit_pass()
        server.app.go_on.set()
        await client.until(b"last\r\n0\r\n\r\n")
    assert server.refused == []


async def test_a_websocket_may_live_longer_than_the_limit(server: House) -> None:
    async with server.client() as client:
        await client.send(SOCKET + b"\r\n")
        assert b" 101 " in await client.until(b"\r\n\r\n")
        await server.let_the_head_limit_pass()
        await client.send(b"\x81\x82\0\0\0\0hi")  # a masked text frame
        await client.until(b"hi")
    assert server.refused == []


# --- too large -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        GET[:-2] + b"X: " + b"x" * 1_000_000,
        GET[:-2] + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
        GET[:-2] + b"x" * 1_000_000,
        GET[:-2] + b"X: 1\r\n" * 200_000,
        b"GET /" + b"x" * 1_000_000,
        padded(GET[:-2], HEAD_BYTES + 100),
        padded(SOCKET, HEAD_BYTES + 100),
        padded(POST + b"Content-Length: 3\r\n", HEAD_BYTES + 100) + b"abc",
        b"\r\n" * HEAD_BYTES,
    ],
    ids=[
        "endless header",
        "1 MB header",
        "endless name",
        "many headers",
        "endless path",
        "just over",
        "websocket",
        "with a body",
        "line ends",
    ],
)
async def test_a_head_over_the_limit_gets_a_431_that_the_client_can_read(server: House, head: bytes) -> None:
    async with server.client() as client:
        sending = asyncio.create_task(client.send(head))
        await expect_refusal(client, 431, "HEADERS_TOO_LARGE")
        await sending
    assert server.refused == [431]
    assert server.app.scopes == []


async def test_a_head_over_the_limit_in_small_pieces_gets_a_431() -> None:
    async with house(head_s=60) as server, server.client() as client:
        answer = asyncio.create_task(expect_refusal(client, 431, "HEADERS_TOO_LARGE"))
        await client.send(GET[:-2] + b"X: ")
        while not server.refused:
            await client.send(b"x" * 500)
            await asyncio.sleep(0)
        await answer


async def test_a_large_head_behind_another_request_in_one_packet_gets_a_431(server: House) -> None:
    async with server.client() as client:
        await client.send(GET + padded(GET[:-2], HEAD_BYTES + 100))
        assert (await client.reply()).status == 200
        assert await client.rest() == b""
    assert (len(server.app.scopes), server.refused) == (1, [431])


async def test_a_head_just_under_the_limit_passes(server: House) -> None:
    async with server.client() as client:
        assert (await client.ask(padded(GET[:-2], HEAD_BYTES - 100))).json["headers"] == 2


async def test_a_body_in_the_same_packet_does_not_count(server: House) -> None:
    async with server.client() as client:
        for _ in range(2):
            reply = await client.ask(POST + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000)
            assert reply.json["body"] == 300_000
    assert server.refused == []


async def test_a_request_leaves_nothing_to_the_garbage_collector(server: House) -> None:
    gc.collect()
    gc.disable()
    try:
        async with server.client() as client:
            for _ in range(5):
                await client.send(GET)
                assert (await client.reply()).status == 200
            cycles = [one for one in gc.get_objects() if type(one) is RequestResponseCycle]
        assert len(cycles) == 1  # the connection's last
    finally:
        gc.enable()


async def test_many_small_requests_in_one_packet_do_not_add_up(server: House) -> None:
    async with server.client() as client:
        await client.send(GET * 1000)
        assert {(await client.reply()).status for _ in range(1000)} == {200}
    assert server.refused == []


async def test_a_chunked_body_of_many_pieces_does_not_count(server: House) -> None:
    async with server.client() as client:
        await client.send(CHUNKED)
        for _ in range(100):
            await client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert (await client.ask(b"0\r\n\r\n")).json["body"] == 100 * 1024
    assert server.refused == []


@pytest.mark.parametrize(
    "endless",
    [b"0\r\n" + b"X: 1\r\n" * 100_000, b"0\r\nX: " + b"x" * 500_000, b"3;" + b"x" * 500_000],
    ids=["trailers", "one trailer", "chunk extension"],
)
async def test_what_lies_between_the_pieces_of_a_body_is_bounded(server: House, endless: bytes) -> None:
    async with server.client() as client:
        await client.send(CHUNKED + b"3\r\nabc\r\n")
        sending = asyncio.create_task(client.send(endless))
        await expect_refusal(client, 431, "HEADERS_TOO_LARGE")
        await sending
        await asyncio.wait_for(server.app.left.wait(), 1)


async def test_trailers_do_not_become_headers(server: House) -> None:
    async with server.client() as client:
        reply = await client.ask(CHUNKED + b"3\r\nabc\r\n0\r\nAuthorization: Bearer forged\r\n\r\n")
    assert reply.json == {"body": 3, "headers": 2}
    (scope,) = server.app.scopes
    assert [name for name, _ in scope["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    "more", [b"X-Long: " + b"x" * 9000 + b"\r\n", b"X: 1\r\n" * 200], ids=["long line", "many lines"]
)
async def test_a_websocket_head_that_its_library_would_choke_on_gets_a_431(
    server: House, more: bytes
) -> None:
    async with server.client() as client:
        await client.send(SOCKET + more + b"\r\n")
        await expect_refusal(client, 431, "HEADERS_TOO_LARGE")


async def test_a_limit_of_zero_is_no_limit() -> None:
    async with house(0, 0) as server, server.client() as client:
        assert (await client.ask(padded(GET[:-2], 1_000_000))).status == 200


# --- more clients than there is room for ---------------------------------------------------


async def test_a_client_too_many_is_told_so_when_it_has_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(connections=1) as server, server.client() as first:
        assert (await first.ask(GET)).status == 200
        async with server.client() as second:
            await second.send(POST + b"Content-Length: 4\r\nOrigin: https://page.example\r\n\r\nbody")
            reply = await expect_refusal(second, 429, "OVERLOADED")
            assert reply.headers["retry-after"] == "1"
            assert reply.headers["access-control-allow-origin"] == "*"
        assert server.refused == [429]
        assert (await first.ask(GET)).status == 200
        await eventually(lambda: len(server.state.connections) == 1)
    assert len(server.app.scopes) == 2


async def test_a_websocket_too_many_is_told_so() -> None:
    async with house(connections=1) as server, server.client(), server.client() as second:
        await second.send(SOCKET + b"\r\n")
        await expect_refusal(second, 429, "OVERLOADED")


async def test_too_many_who_wait_to_be_refused_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_REFUSED_AT_A_TIME", 1)
    async with house(head_s=0, connections=1) as server, server.client(), server.client():
        await eventually(lambda: len(server.state.connections) == 2)
        async with server.client() as third:
            await expect_refusal(third, 429, "OVERLOADED")
        await eventually(lambda: len(server.state.connections) == 2)


async def test_there_is_room_again_when_clients_have_left() -> None:
    async with house(connections=1) as server:
        for _ in range(3):
            async with server.client() as client:
                assert (await client.ask(GET)).status == 200
            await eventually(lambda: not server.state.connections)


# --- not HTTP, or HTTP that two parsers read differently -----------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        POST + b"Content-Length: 3, 3\r\n\r\nabc",
        POST + b"Content-Length: +3\r\n\r\nabc",
        POST + b"Content-Length: -3\r\n\r\nabc",
        POST + b"Content-Length: 0x3\r\n\r\nabc",
        POST + b"Content-Length: \r\n\r\nabc",
        POST + b"Content-Length: 99999999999999999999\r\n\r\nabc",
        POST + b"Content-Length : 3\r\n\r\nabc",
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\n\r\nabc",
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GET[:-2] + b"Host: b\r\n\r\n",
        GET[:-2] + b"X: a\r\n b\r\n\r\n",
        GET[:-2] + b"X: a\rb\r\n\r\n",
        GET[:-2] + b"X: a\0b\r\n\r\n",
        GET[:-2] + b": a\r\n\r\n",
        GET.replace(b"\r\n", b"\n"),
        GET.replace(b"1.1", b"2.0"),
        GET.replace(b"1.1", b"1.7"),
        GET.replace(b"GET", b"FETCH"),
        GET.replace(b"/echo", "/é".encode()),
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        SOCKET.replace(b"GET", b"POST") + b"\r\n",
        b"GET /echo HTTP/1.1\r\n\r\n",
        SOCKET + b"Content-Length: 5\r\n\r\n",
        SOCKET + b"Transfer-Encoding: chunked\r\n\r\n",
        SOCKET + b"\r\n\x81\x80abcd",
    ],
    ids=lambda request: repr(request.removeprefix(POST).removeprefix(GET[:-2]))[2:50],
)
async def test_what_is_not_clean_http_gets_a_400_and_reaches_nobody(server: House, request_: bytes) -> None:
    async with server.client() as client:
        await client.send(request_)
        reply = await expect_refusal(client, 400, "BAD_REQUEST")
    assert reply.headers["content-type"] == "application/json"
    assert server.app.scopes == []
    assert server.refused == [400]


async def test_a_broken_body_ends_the_request_for_both_sides(server: House) -> None:
    async with server.client() as client:
        await client.send(CHUNKED + b"3\r\nabc\r\n")
        await client.send(b"nonsense\r\n")
        await expect_refusal(client, 400, "BAD_REQUEST")
        await asyncio.wait_for(server.app.left.wait(), 1)


async def test_who_waits_for_100_continue_and_breaks_its_body_is_not_told_to_continue(
    server: House, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.client() as client:
        await client.send(CHUNKED[:-2] + b"Expect: 100-continue\r\n\r\nnonsense\r\n")
        await expect_refusal(client, 400, "BAD_REQUEST")
        await asyncio.wait_for(server.app.left.wait(), 1)
    assert caplog.records == []


async def test_a_broken_body_under_a_running_answer_closes_without_the_last_chunk(server: House) -> None:
    async with server.client() as client:
        await client.send(CHUNKED.replace(b"/echo", b"/stream"))
        await client.until(b"first\r\n")
        await client.send(b"nonsense\r\n")
        assert await client.rest() == b""


async def test_nonsense_behind_a_request_does_not_hurt_its_answer(server: House) -> None:
    async with server.client() as client:
        await client.send(GET.replace(b"/echo", b"/stream") + b"nonsense\r\n")
        await client.until(b"first\r\n")
        server.app.go_on.set()
        assert (await client.rest()).endswith(b"last\r\n0\r\n\r\n")
    assert server.refused == [400]


async def test_requests_in_a_row_before_nonsense_are_all_answered(server: House) -> None:
    async with server.client() as client:
        await client.send(GET * 3 + b"nonsense\r\n" + GET)
        assert [(await client.reply()).status for _ in range(3)] == [200] * 3
        assert await client.rest() == b""
    assert len(server.app.scopes) == 3


# --- upgrades ------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("together", [True, False], ids=["one packet", "two packets"])
async def test_a_body_survives_an_offer_to_speak_http_2(server: House, framing: str, together: bool) -> None:
    """What Java's HttpClient sends by default; the body must not be read as the next request."""
    head = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    if framing == "length":
        pieces = [head + b"Content-Length: %d\r\n\r\n" % len(GET), GET]
    else:
        pieces = [head + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(GET), GET)]
    async with server.client() as client:
        for piece in [b"".join(pieces)] if together else pieces:
            await client.send(piece)
        assert (await client.reply()).json["body"] == len(GET)
        assert (await client.ask(GET)).json["body"] == 0
    assert [scope["method"] for scope in server.app.scopes] == ["POST", "GET"]


async def test_an_upgrade_cannot_break_into_a_running_answer(server: House) -> None:
    async with server.client() as client:
        await client.send(GET.replace(b"/echo", b"/stream") + SOCKET + b"\r\n")
        await client.until(b"first\r\n")
        server.app.go_on.set()
        assert (await client.rest()).endswith(b"last\r\n0\r\n\r\n")
    assert [scope["type"] for scope in server.app.scopes] == ["http"]


# --- the refusal itself --------------------------------------------------------------------


async def test_a_refusal_carries_the_request_id_and_may_be_read_by_any_page(server: House) -> None:
    async with server.client() as client:
        await client.send(padded(b"GET / HTTP/1.1\r\nsb-request-id: mine\r\n", HEAD_BYTES + 100))
        reply = await expect_refusal(client, 431, "HEADERS_TOO_LARGE")
    assert reply.headers["sb-request-id"] == "mine"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "sb-error-code" in reply.headers["access-control-expose-headers"]


@pytest.mark.parametrize(("origin", "allowed"), [("https://a.example", True), ("https://b.example", False)])
async def test_a_refusal_follows_the_list_of_origins(origin: str, allowed: bool) -> None:
    async with house(cors=Cors(allow_origins=("https://a.example",))) as server, server.client() as client:
        await client.send(padded(b"GET / HTTP/1.1\r\norigin: %s\r\n" % origin.encode(), HEAD_BYTES + 100))
        reply = await expect_refusal(client, 431, "HEADERS_TOO_LARGE")
    assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)


async def test_a_refused_client_that_stays_is_disconnected(
    server: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LINGER_S", 0.05)
    async with server.client() as client:
        await client.send(b"nonsense\r\n\r\n")
        await client.until(b"\r\n\r\n")
        await eventually(lambda: not server.state.connections)


async def test_a_client_that_leaves_is_told_to_the_application(server: House) -> None:
    async with server.client() as client:
        await client.send(POST + b"Content-Length: 6\r\n\r\nabc")
        await eventually(lambda: server.app.scopes)
    await asyncio.wait_for(server.app.left.wait(), 1)


# --- answers that break off -----------------------------------------------------------------


async def test_what_was_said_before_an_answer_broke_off_is_read_though_the_body_was_not(
    server: House,
) -> None:
    async with server.client() as client:
        await client.send(POST.replace(b"/echo", b"/break") + b"Content-Length: 1000000\r\n\r\n")
        await client.until(b"first\r\n")
        await client.send(bytes(300_000))  # nobody reads it
        server.app.go_on.set()
        assert await client.rest() == b"4\r\nlast\r\n"  # and no reset, and no last chunk


async def test_a_client_that_does_not_take_the_rest_of_a_broken_answer_is_given_up(
    server: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "FLUSH_S", 0.05)
    async with server.client() as client:
        transport = client.writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET.replace(b"/echo", b"/break-large"))
        await eventually(lambda: server.app.scopes)
        await eventually(lambda: not server.state.connections)


async def test_nobody_looks_for_the_end_of_a_connection_that_is_lost(server: House) -> None:
    async with server.client() as client:
        await client.send(POST.replace(b"/echo", b"/read-late") + b"Content-Length: 1000000\r\n\r\n")
        await client.send(bytes(200_000))
        (connection,) = server.state.connections
        assert isinstance(connection, guard.GuardedHttpProtocol)
        await eventually(lambda: connection._look_timer)
        look = connection._look_timer
        assert look is not None
        connection.transport.abort()
        await eventually(lambda: not server.state.connections)
        assert look.cancelled()


# --- without a socket ----------------------------------------------------------------------


class Bench:
    """The protocol on a transport that only listens."""

    def __init__(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        self.loop = asyncio.new_event_loop()
        self.refused: list[int] = []
        protocol = guarded(1024, 10, self.refused.append)
        config = uvicorn.Config(app, http=protocol, ws="websockets-sansio", lifespan="off", log_config=None)
        config.load()
        self.transport = Mock(spec=asyncio.Transport)
        self.transport.is_closing.return_value = False
        self.transport.get_extra_info.return_value = None
        self.protocol = protocol(config, ServerState(), {}, self.loop)
        self.protocol.connection_made(self.transport)

    def feed(self, *packets: bytes) -> None:
        async def turn() -> None:
            for packet in packets:
                self.protocol.data_received(packet)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def close(self) -> None:
        self.protocol.connection_lost(None)
        self.loop.close()


PIECES = [
    GET,
    POST,
    CHUNKED,
    SOCKET,
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"\r\n",
    b"Content-Length: 3\r\n",
    b"abc",
    b"X:",
]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=40), max_size=8))
def test_whatever_comes_in_is_answered_or_refused_but_never_a_crash(packets: list[bytes]) -> None:
    bench = Bench()
    try:
        bench.feed(*packets)
        assert set(bench.refused) <= {400, 431}
        assert len(bench.refused) <= 1
    finally:
        bench.close()


@pytest.mark.parametrize("broken", [b"nonsense\r\n", CHUNKED + b"nonsense\r\n"])
def test_an_answer_that_waits_for_the_end_of_the_turn_goes_before_a_refusal(broken: bytes) -> None:
    bench = Bench()
    try:

        async def turn() -> None:
            bench.protocol.data_received(GET.replace(b"GET", b"HEAD"))
            await asyncio.sleep(0)  # it is answered, with nothing but a head
            bench.protocol.data_received(broken)
            await asyncio.sleep(0)

        bench.loop.run_until_complete(turn())
        written = [call.args[0][9:12] for call in bench.transport.write.call_args_list]
        assert written == [b"204", b"400"]
    finally:
        bench.close()


def test_requests_on_a_kept_connection_arm_no_timer() -> None:
    bench = Bench()
    try:
        first = bench.protocol.head_timer
        bench.feed(*[GET] * 10)
        assert bench.protocol.head_timer is first
        assert not bench.protocol.head_since
    finally:
        bench.close()
