"""WebSockets between clients and functions."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import websockets.exceptions
from websockets.frames import Close
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.conformance.wire import Wire, is_whole
from tests.running import Server, eventually, project, serving

ECHO = """
async def handler(request):
    return "plain http"

async def websocket(ws):
    await ws.accept(subprotocol="chat" if "chat" in ws.scope["subprotocols"] else None)
    while True:
        message = await ws.receive()
        if message["type"] == "websocket.disconnect":
            print("left with", message["code"], message.get("reason"))
            return
        if message.get("text") is not None:
            await ws.send_text(message["text"])
        else:
            await ws.send_bytes(message["bytes"])
"""
ACTS = """
import asyncio
import os
from starlette.websockets import WebSocketDisconnect

async def handler(request):
    return "fine"

async def websocket(ws):
    what = ws.url.path.rpartition("/")[2]
    if what == "refuses":
        await ws.close(4403)
        return
    if what == "denies":
        from starlette.responses import JSONResponse
        await ws.send_denial_response(JSONResponse({"sorry": True}, 402, {"x-own": "1"}))
        return
    if what == "raises-before":
        raise RuntimeError("secret detail")
    if what == "returns-before":
        return
    if what == "dies-before":
        os._exit(1)
    await ws.accept(headers=[(b"x-own", b"1")])
    if what == "closes":
        await ws.close(4001, "größer")
    elif what == "closes-oddly":
        await ws.close(int(ws.query_params["code"]), ws.query_params.get("reason", ""))
    elif what == "raises":
        raise RuntimeError("secret detail")
    elif what == "returns":
        await ws.send_text("bye")
    elif what == "dies":
        await ws.receive_text()
        os._exit(1)
    elif what == "sends-much":
        await ws.send_bytes(bytes(int(ws.query_params["size"])))
        await ws.receive()
    elif what == "waits":
        try:
            while True:
                await ws.send_text("waiting")
                await asyncio.sleep(0.01)
        finally:
            print("the socket's task ended")
    elif what == "saves":
        try:
            while True:
                await asyncio.sleep(0.01)
                print("saved", await ws.receive_text())
        except WebSocketDisconnect as left:
            await asyncio.sleep(0.2)
            print("cleaned up after", left.code)
    elif what == "ticks":
        for number in range(3):
            await ws.receive_text()
            await ws.send_json({"number": number, "path": ws.scope["path"], "query": ws.url.query})
        await ws.close()
"""
APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

async def talk(ws):
    await ws.accept()
    await ws.send_json({"path": ws.scope["path"], "root_path": ws.scope["root_path"]})
    await ws.close()

async def page(request):
    return PlainTextResponse("page")

app = Starlette(routes=[Route("/", page), WebSocketRoute("/talk", talk)])
"""
FUNCTIONS = {
    "echo": ECHO,
    "acts": ACTS,
    "app": APP,
    "deaf": "async def handler(request): return 'no sockets here'",
    "broken": "this is no Python",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project(tmp_path_factory.mktemp("sockets"), FUNCTIONS)) as server:
        yield server


def dial_socket(server: Server, target: str, **options: Any) -> ClientConnection:
    """A WebSocket with the anon key."""
    url = f"{server.functions}{target}".replace("http://", "ws://")
    headers = {"Authorization": f"Bearer {server.token()}"}
    websocket: ClientConnection = connect(
        url, additional_headers=headers, proxy=None, max_size=None, **options
    )
    return websocket


def refusal(server: Server, target: str, **options: Any) -> websockets.exceptions.InvalidStatus:
    """How the server refuses a WebSocket."""
    with (
        pytest.raises(websockets.exceptions.InvalidStatus) as refused,
        dial_socket(server, target, **options),
    ):
        pass
    return refused.value


def closing(websocket: ClientConnection) -> Close:
    """How the server closes a WebSocket."""
    with contextlib.suppress(websockets.exceptions.ConnectionClosed):
        while True:
            websocket.recv(20)
    closed = websocket.protocol.close_rcvd
    assert closed is not None, "the connection broke"
    return closed


# --- messages ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    ["hello", "", "größer 🎈", b"\x00\xff", b"", "x" * 300_000, bytes(900_000)],
    ids=["text", "empty text", "unicode", "binary", "empty binary", "long text", "long binary"],
)
def test_a_message_comes_back_as_it_was(server: Server, message: str | bytes) -> None:
    with dial_socket(server, "/echo") as websocket:
        for _ in range(3):
            websocket.send(message)
            assert websocket.recv(20) == message


def test_a_message_in_fragments_arrives_as_one(server: Server) -> None:
    with dial_socket(server, "/echo") as websocket:
        websocket.send(["one ", "two ", "three"])
        assert websocket.recv(20) == "one two three"


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_are_compressed_if_the_client_offers_it(server: Server, compression: str | None) -> None:
    with dial_socket(server, "/echo", compression=compression) as websocket:
        assert [extension.name for extension in websocket.protocol.extensions] == (
            ["permessage-deflate"] if compression else []
        )
        for message in ("again and again " * 1000, os.urandom(10_000)):
            websocket.send(message)
            assert websocket.recv(20) == message


def test_a_ping_is_answered_also_while_the_function_is_busy(server: Server) -> None:
    with dial_socket(server, "/echo") as websocket, dial_socket(server, "/acts/waits") as busy:
        assert websocket.ping(b"any payload").wait(20)
        assert busy.ping(b"").wait(20)


def test_a_ping_between_two_fragments_is_answered_before_the_message_is(wire: Wire) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key]
    wire.ask("GET", "/functions/v1/echo", *upgrade)
    assert wire.head().status == 101
    no_mask = b"\0\0\0\0"
    wire.send(b"\x01\x83" + no_mask + b"one" + b"\x89\x82" + no_mask + b"hi")
    assert wire.exactly(4) == b"\x8a\x02hi"
    wire.send(b"\x80\x83" + no_mask + b"two")
    assert wire.exactly(8) == b"\x81\x06onetwo"


def test_a_thousand_messages_keep_their_order(server: Server) -> None:
    def send_all() -> None:
        for number in range(1000):
            websocket.send(str(number))

    with dial_socket(server, "/echo") as websocket, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_all)
        assert [websocket.recv(20) for _ in range(1000)] == [str(number) for number in range(1000)]
        sending.result()


def test_many_sockets_at_once_do_not_mix(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(dial_socket(server, "/echo")) for _ in range(20)]
        for number, websocket in enumerate(sockets):
            websocket.send(f"socket {number}")
        assert [websocket.recv(20) for websocket in sockets] == [f"socket {number}" for number in range(20)]


def test_a_function_sees_path_and_query_as_a_handler_does(server: Server) -> None:
    with dial_socket(server, "/acts/ticks?a=1&b=%20") as websocket:
        for number in range(3):
            websocket.send("next")
            told = json.loads(websocket.recv(20))
            assert told == {"number": number, "path": "/acts/ticks", "query": "a=1&b=%20"}
        assert closing(websocket).code == 1000


def test_an_application_s_own_routes_take_sockets_too(server: Server) -> None:
    with dial_socket(server, "/app/talk") as websocket:
        told = json.loads(websocket.recv(20))
    assert told == {"path": "/functions/v1/app/talk", "root_path": "/functions/v1/app"}


# --- the handshake -------------------------------------------------------------------------


def test_subprotocol_headers_and_request_id_of_the_handshake(server: Server) -> None:
    offered = [Subprotocol("other"), Subprotocol("chat")]
    with dial_socket(server, "/echo", subprotocols=offered) as websocket:
        assert websocket.subprotocol == "chat"
        assert websocket.response is not None
        assert websocket.response.headers["sb-request-id"]
    with dial_socket(server, "/acts/returns") as websocket:
        assert websocket.response is not None
        assert websocket.response.headers["x-own"] == "1"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/nope", "NOT_FOUND"),
        ("/broken", "BOOT_ERROR"),
        ("/acts/raises-before", "WORKER_ERROR"),
        ("/acts/dies-before", "WORKER_ERROR"),
        ("/deaf", "BAD_REQUEST"),
    ],
)
def test_a_refused_handshake_is_answered_like_a_request(server: Server, target: str, code: str) -> None:
    response = refusal(server, target).response
    is_whole(json.loads(response.body or b""), response.status_code, code, response.headers)
    assert b"secret detail" not in (response.body or b"")


def test_a_function_may_refuse_a_handshake_itself(server: Server) -> None:
    for what in ("refuses", "returns-before"):
        refused = refusal(server, f"/acts/{what}").response
        assert (refused.status_code, refused.body) == (403, b"")
        assert refused.headers["sb-request-id"]
    denied = refusal(server, "/acts/denies").response
    assert (denied.status_code, json.loads(denied.body or b"")) == (402, {"sorry": True})
    assert denied.headers["x-own"] == "1"
    assert denied.headers["sb-request-id"]


def test_a_function_with_a_websocket_still_answers_plain_requests(wire: Wire) -> None:
    wire.ask("GET", "/functions/v1/echo")
    assert wire.answer().body == b"plain http"


# --- the end -------------------------------------------------------------------------------


def test_the_function_s_close_code_and_reason_reach_the_client(server: Server) -> None:
    with dial_socket(server, "/acts/closes") as websocket:
        assert closing(websocket) == Close(4001, "größer")


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (4242, "größer")])
def test_the_client_s_close_code_and_reason_reach_the_function(
    server: Server, code: int, reason: str
) -> None:
    said = f"left with {code} {reason}"
    with dial_socket(server, "/echo") as websocket:
        websocket.send("hello")
        websocket.recv(20)
        websocket.close(code, reason)
    server.wait_for_log(said.rstrip())


def test_a_client_that_vanishes_is_told_to_the_function(server: Server) -> None:
    with dial_socket(server, "/echo") as websocket:
        websocket.send("hello")
        websocket.recv(20)
        before = server.log.count("left with 100")
        websocket.socket.shutdown(socket.SHUT_RDWR)
        server.wait_for_log("left with 100", before + 1)


@pytest.mark.parametrize(
    "query",
    [
        "code=0",
        "code=1004",
        "code=1005",
        "code=1006",
        "code=1015",
        "code=2999",
        "code=5000",
        "code=4000&reason=" + "é" * 62,
    ],
)
def test_a_close_that_the_protocol_does_not_allow_is_the_function_s_error(server: Server, query: str) -> None:
    before = server.log.count("ValueError: a WebSocket")
    with dial_socket(server, f"/acts/closes-oddly?{query}") as websocket:
        assert closing(websocket).code == 1011
    server.wait_for_log("ValueError: a WebSocket", before + 1)


@pytest.mark.parametrize(
    "query", ["code=1000", "code=1013", "code=3000", "code=4999", f"code=4000&reason={'x' * 123}"]
)
def test_any_other_close_reaches_the_client(server: Server, query: str) -> None:
    with dial_socket(server, f"/acts/closes-oddly?{query}") as websocket:
        assert str(closing(websocket).code) in query


def test_a_function_that_goes_on_sending_ends_when_the_client_leaves(server: Server) -> None:
    before = server.log.count("the socket's task ended")
    with dial_socket(server, "/acts/waits") as websocket:
        assert websocket.recv(20) == "waiting"
    server.wait_for_log("the socket's task ended", before + 1)


def test_a_function_reads_what_was_sent_before_the_client_left_and_finishes(server: Server) -> None:
    with dial_socket(server, "/acts/saves") as websocket:
        assert websocket.response is not None
        request = websocket.response.headers["sb-request-id"]
        for number in range(5):
            websocket.send(f"number {number}")
        websocket.close(1000)
    server.wait_for_log("cleaned up after 1000")
    assert all(f"saved number {number}" in server.log for number in range(5))
    eventually(
        lambda: [line for line in server.log.splitlines() if " 101 " in line and request in line], "it"
    )
    (line,) = (line for line in server.log.splitlines() if " 101 " in line and request in line)
    assert "ERROR" not in line


def test_a_function_that_returns_closes_its_socket(server: Server) -> None:
    with dial_socket(server, "/acts/returns") as websocket:
        assert websocket.recv(20) == "bye"
        assert closing(websocket).code == 1000


def test_a_function_that_raises_closes_with_1011_and_tells_no_internals(server: Server) -> None:
    with dial_socket(server, "/acts/raises") as websocket:
        closed = closing(websocket)
    assert closed.code == 1011
    assert "secret" not in closed.reason
    server.wait_for_log("RuntimeError: secret detail")


@pytest.mark.parametrize("how", ["by itself", "killed"])
def test_a_worker_that_dies_closes_its_sockets_with_1011(server: Server, how: str) -> None:
    with dial_socket(server, "/acts/dies" if how == "by itself" else "/acts/waits") as websocket:
        if how == "by itself":
            websocket.send("now")
        else:
            assert websocket.recv(20) == "waiting"
            os.kill(server.metric()["functions"]["acts"]["pids"][0], signal.SIGKILL)
        assert closing(websocket).code == 1011
    with dial_socket(server, "/acts/returns") as websocket:
        assert websocket.recv(20) == "bye"


# --- large messages ------------------------------------------------------------------------


@pytest.mark.parametrize("message", [bytes(1 << 20), "x" * (1 << 20), bytes(5_000_000)])
def test_a_message_over_the_limit_closes_with_1009_and_hurts_nobody(
    server: Server, message: str | bytes
) -> None:
    pids = server.metric()["functions"]["echo"]["pids"]
    with dial_socket(server, "/echo") as websocket, dial_socket(server, "/echo") as other:
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            websocket.send(message)
        assert closing(websocket).code == 1009
        other.send("still here")
        assert other.recv(20) == "still here"
    assert server.metric()["functions"]["echo"]["pids"] == pids


def test_fragments_that_are_too_long_together_close_with_1009(server: Server) -> None:
    with dial_socket(server, "/echo", compression=None) as websocket:
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            websocket.send([os.urandom(300_000) for _ in range(4)])
        assert closing(websocket).code == 1009


def test_a_text_that_is_no_utf_8_closes_with_1007(server: Server) -> None:
    with dial_socket(server, "/echo") as websocket:
        websocket.send(b"\xff\xfe", text=True)
        assert closing(websocket).code == 1007


def test_a_message_of_the_function_s_over_the_limit_is_its_error(server: Server) -> None:
    pids = server.metric()["functions"]["acts"]["pids"]
    with dial_socket(server, "/acts/sends-much?size=1000000") as websocket:
        assert len(websocket.recv(20)) == 1_000_000
    with dial_socket(server, "/acts/sends-much?size=2000000") as websocket:
        assert closing(websocket).code == 1011
    assert server.metric()["functions"]["acts"]["pids"] == pids
