"""Frames on one side, ASGI events on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from runtime import frames
from runtime.channel import CHUNK, Stream, open_stream
from runtime.door import socket_pair
from runtime.errors import ChannelClosed, InvalidResponse
from runtime.worker.exchange import HttpExchange, RequestStream, SocketExchange, scope_of

pytestmark = pytest.mark.anyio

REQUESTS = msgspec.msgpack.Decoder(frames.RequestFrame)
RESPONSES = msgspec.msgpack.Decoder(frames.ResponseFrame)
Gateway = Stream[frames.ResponseFrame]


def head(**changes: Any) -> frames.Head:
    values: dict[str, Any] = {
        "request_id": "1",
        "method": "POST",
        "path": "/f",
        "raw_path": b"/f",
        "headers": [],
    }
    return frames.Head(**values | changes)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[RequestStream, Gateway]]:
    """The worker's end of a connection and the gateway's."""
    ours, theirs = socket_pair()
    worker = await open_stream(ours, lambda: Stream(REQUESTS))
    gateway = await open_stream(theirs, lambda: Stream(RESPONSES))
    yield worker, gateway
    worker.abort()
    gateway.abort()


Ends = tuple[RequestStream, Gateway]


async def closed(stream: Stream[Any]) -> None:
    while not stream.closed:  # noqa: ASYNC110 - it is the state that is awaited
        await asyncio.sleep(0)


# --- scopes -------------------------------------------------------------------------------


def test_a_scope_is_what_the_head_says() -> None:
    scope = scope_of(
        head(
            path="/f/ö",
            raw_path=b"/f/%C3%B6",
            query=b"a=1",
            headers=[(b"x", b"y")],
            root_path="/functions/v1",
            scheme="https",
            http_version="1.1",
            client=("10.0.0.1", 5),
            server=("host", 443),
            claims={"role": "anon"},
        )
    )
    assert scope.pop("asgi") == {"version": "3.0", "spec_version": "2.4"}
    assert scope == {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/f/ö",
        "raw_path": b"/f/%C3%B6",
        "query_string": b"a=1",
        "root_path": "/functions/v1",
        "headers": [(b"x", b"y")],
        "client": ("10.0.0.1", 5),
        "server": ("host", 443),
        "auth": {"role": "anon"},
        "state": {},
    }


def test_no_claims_are_empty_claims() -> None:
    assert scope_of(head())["auth"] == {}


def test_a_websockets_scope_has_subprotocols_and_no_method() -> None:
    scope = scope_of(head(kind="websocket", subprotocols=["a", "b"]))
    assert scope["type"] == "websocket"
    assert scope["subprotocols"] == ["a", "b"]
    assert "websocket.http.response" in scope["extensions"]
    assert "method" not in scope


# --- requests -----------------------------------------------------------------------------


async def test_a_request_without_a_body_has_an_empty_one(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    assert await exchange.receive() == {"type": "http.request", "body": b"", "more_body": False}
    gateway.close()
    assert await exchange.receive() == {"type": "http.disconnect"}


async def test_a_body_arrives_piece_by_piece(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head(more=True))
    gateway.send(frames.Body(b"a", True))
    gateway.send(frames.Body(b"", True), frames.Body(b"b", False))
    events = [await exchange.receive() for _ in range(3)]
    assert [(event["body"], event["more_body"]) for event in events] == [
        (b"a", True),
        (b"", True),
        (b"b", False),
    ]
    gateway.close()
    assert await exchange.receive() == {"type": "http.disconnect"}


async def test_a_body_that_breaks_off_is_a_disconnect(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head(more=True))
    gateway.send(frames.Body(b"a", True))
    gateway.close()
    assert (await exchange.receive())["body"] == b"a"
    assert await exchange.receive() == {"type": "http.disconnect"}
    assert await exchange.receive() == {"type": "http.disconnect"}


async def test_after_the_response_there_is_only_a_disconnect(ends: Ends) -> None:
    worker, _ = ends
    exchange = HttpExchange(worker, head(more=True))
    await exchange.send({"type": "http.response.start", "status": 200})
    await exchange.send({"type": "http.response.body", "body": b"done"})
    assert await exchange.receive() == {"type": "http.disconnect"}


# --- responses ----------------------------------------------------------------------------


async def received(gateway: Gateway) -> list[frames.ResponseFrame]:
    """Frames up to the response's last."""
    collected: list[frames.ResponseFrame] = []
    while True:
        frame = await gateway.receive()
        collected.append(frame)
        if isinstance(frame, frames.Body) and not frame.more:
            return collected


async def test_a_response_is_its_start_and_its_body(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send({"type": "http.response.start", "status": 201, "headers": [(b"X-Name", b"Value")]})
    before = exchange.started
    await exchange.send({"type": "http.response.body", "body": b"hi"})
    assert (before, exchange.started, exchange.finished) == (False, True, True)
    assert await received(gateway) == [frames.Start(201, [(b"x-name", b"Value")]), frames.Body(b"hi", False)]


async def test_a_response_may_leave_everything_out(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send({"type": "http.response.start", "status": 204})
    await exchange.send({"type": "http.response.body"})
    assert await received(gateway) == [frames.Start(204, []), frames.Body(b"", False)]


async def test_a_stream_goes_out_as_it_comes(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send({"type": "http.response.start", "status": 200})
    await exchange.send({"type": "http.response.body", "body": b"a", "more_body": True})
    assert [await gateway.receive(), await gateway.receive()] == [
        frames.Start(200, []),
        frames.Body(b"a", True),
    ]
    assert not exchange.finished
    await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})
    assert await gateway.receive() == frames.Body(b"", False)


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 7])
@pytest.mark.parametrize("more", [False, True])
async def test_a_large_piece_is_cut_and_arrives_whole(ends: Ends, size: int, more: bool) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    data = bytes(index % 251 for index in range(size))
    await exchange.send({"type": "http.response.start", "status": 200})
    sending = asyncio.ensure_future(
        exchange.send({"type": "http.response.body", "body": data, "more_body": more})
    )
    if more:
        sending.add_done_callback(
            lambda _: asyncio.ensure_future(exchange.send({"type": "http.response.body", "body": b""}))
        )
    start, *pieces = await received(gateway)
    await sending
    bodies = [piece for piece in pieces if isinstance(piece, frames.Body)]
    assert isinstance(start, frames.Start)
    assert b"".join(piece.data for piece in bodies) == data
    assert all(len(piece.data) <= CHUNK for piece in bodies)
    assert [piece.more for piece in bodies] == [True] * (len(bodies) - 1) + [False]


async def test_any_buffer_is_a_body(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send({"type": "http.response.start", "status": 200})
    await exchange.send({"type": "http.response.body", "body": memoryview(b"abc"), "more_body": True})
    await exchange.send({"type": "http.response.body", "body": bytearray(b"def")})
    _, *bodies = await received(gateway)
    assert bodies == [frames.Body(b"abc", True), frames.Body(b"def", False)]


async def test_what_is_sent_after_the_end_is_ignored(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send({"type": "http.response.start", "status": 200})
    await exchange.send({"type": "http.response.body", "body": b"done"})
    await exchange.send({"type": "http.response.body", "body": b"and more"})
    worker.close()
    assert len(await received(gateway)) == 2
    with pytest.raises(ChannelClosed):
        await gateway.receive()


PROMISED = [(b"content-length", b"4")]


@pytest.mark.parametrize(
    ("headers", "pieces"),
    [
        (PROMISED, [(b"four", False)]),
        (PROMISED, [(b"four", True), (b"", False)]),  # as middleware passes a plain response on
        (PROMISED, [(b"", False)]),
        (PROMISED, [(b"", True), (b"", False)]),
        ([], [(b"", False)]),
    ],
)
async def test_the_response_to_a_head_is_its_start(
    ends: Ends, headers: frames.Headers, pieces: list[tuple[bytes, bool]]
) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head(method="HEAD"))
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    for body, more in pieces:
        await exchange.send({"type": "http.response.body", "body": body, "more_body": more})
        assert exchange.finished
    assert await received(gateway) == [frames.Start(200, headers), frames.Body(b"", False)]
    assert not exchange.cut


@pytest.mark.parametrize(
    ("headers", "before"),
    [
        ([], []),
        ([], [b""]),
        (PROMISED, []),
    ],
)
async def test_a_body_that_would_go_on_after_a_head_is_cut(
    ends: Ends, headers: frames.Headers, before: list[bytes]
) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head(method="HEAD"))
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    for body in before:
        await exchange.send({"type": "http.response.body", "body": body, "more_body": True})
    with pytest.raises(OSError, match="nobody wants the body"):
        await exchange.send({"type": "http.response.body", "body": b"a", "more_body": True})
    assert exchange.cut
    assert await received(gateway) == [frames.Start(200, headers), frames.Body(b"", False)]


async def test_a_response_is_complete_with_the_last_byte_that_was_promised(ends: Ends) -> None:
    """What the application does before it says so (background tasks) must not end with the client."""
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
    )
    await exchange.send({"type": "http.response.body", "body": b"ab", "more_body": True})
    before = exchange.finished
    await exchange.send({"type": "http.response.body", "body": b"cd", "more_body": True})
    assert (before, exchange.finished) == (False, True)
    await gateway.receive()
    assert [await gateway.receive() for _ in range(2)] == [
        frames.Body(b"ab", True),
        frames.Body(b"cd", False),
    ]
    gateway.abort()
    await closed(worker)
    await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})
    with pytest.raises(InvalidResponse, match="longer than its content-length"):
        await exchange.send({"type": "http.response.body", "body": b"e", "more_body": False})


async def test_a_large_piece_that_is_longer_than_promised_is_no_response(ends: Ends) -> None:
    worker, _ = ends
    exchange = HttpExchange(worker, head())
    length = str(CHUNK).encode()
    await exchange.send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    with pytest.raises(InvalidResponse, match="longer than its content-length"):
        await exchange.send({"type": "http.response.body", "body": bytes(CHUNK + 1), "more_body": True})


async def test_a_body_before_its_status_is_refused(ends: Ends) -> None:
    worker, _ = ends
    with pytest.raises(AssertionError, match="before its status"):
        await HttpExchange(worker, head()).send({"type": "http.response.body", "body": b"x"})


async def test_sending_to_a_client_that_left_raises(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    gateway.abort()
    await closed(worker)
    with pytest.raises(OSError, match="gone"):
        await exchange.send({"type": "http.response.start", "status": 200})


async def test_a_sender_that_waits_learns_that_the_client_left(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send({"type": "http.response.start", "status": 200})
    huge = {"type": "http.response.body", "body": bytes(20 * CHUNK)}
    sending = asyncio.ensure_future(exchange.send(huge))
    while not gateway._paused:  # noqa: ASYNC110 - it is the state that is awaited
        await asyncio.sleep(0)
    assert not sending.done()
    gateway.abort()
    with pytest.raises(OSError, match="gone"):
        await sending


async def test_a_function_cannot_outrun_its_client(ends: Ends) -> None:
    """The generator waits; neither process collects what the client does not take."""
    worker, _gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send({"type": "http.response.start", "status": 200})
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            await exchange.send({"type": "http.response.body", "body": bytes(32 * 1024), "more_body": True})
            sent += 1

    pouring = asyncio.ensure_future(pour())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.02)
    assert sent * 32 * 1024 < 4 * 1024 * 1024
    pouring.cancel()


async def test_a_stream_that_never_waits_leaves_time_for_others_and_notices_the_end(ends: Ends) -> None:
    worker, gateway = ends
    exchange = HttpExchange(worker, head())
    await exchange.send({"type": "http.response.start", "status": 200})

    async def pour() -> None:
        while True:
            await exchange.send({"type": "http.response.body", "body": b"", "more_body": True})

    pouring = asyncio.ensure_future(pour())
    assert isinstance(await gateway.receive(), frames.Start)
    gateway.abort()
    with pytest.raises(OSError, match="gone"):
        await pouring


@pytest.mark.parametrize("status", [0, 99, 101, 199, 600, 1000])
async def test_a_status_that_http_does_not_know_is_no_response(ends: Ends, status: int) -> None:
    worker, _ = ends
    with pytest.raises(InvalidResponse, match=str(status)):
        await HttpExchange(worker, head()).send({"type": "http.response.start", "status": status})


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"\x00"),
        (b"x y", b"z"),
        (b"x:", b"z"),
        (b"", b"z"),
    ],
    ids=repr,
)
async def test_a_header_that_cannot_be_sent_is_no_response(ends: Ends, header: tuple[bytes, bytes]) -> None:
    worker, _ = ends
    start = {"type": "http.response.start", "status": 200, "headers": [(b"fine", b"tab\tis fine"), header]}
    with pytest.raises(InvalidResponse, match="header"):
        await HttpExchange(worker, head()).send(start)


# --- WebSockets ---------------------------------------------------------------------------


async def test_a_websocket_begins_with_connect_and_carries_messages_both_ways(ends: Ends) -> None:
    worker, gateway = ends
    exchange = SocketExchange(worker)
    assert await exchange.receive() == {"type": "websocket.connect"}
    await exchange.send({"type": "websocket.accept", "subprotocol": "a", "headers": [(b"X", b"y")]})
    assert exchange.started
    await exchange.send({"type": "websocket.send", "text": "hi"})
    await exchange.send({"type": "websocket.send", "bytes": b"\x00"})
    assert [await gateway.receive() for _ in range(3)] == [
        frames.SocketAccept("a", [(b"x", b"y")]),
        frames.SocketMessage("hi", None),
        frames.SocketMessage(None, b"\x00"),
    ]
    gateway.send(frames.SocketMessage("ho", None), frames.SocketMessage(None, b"\x01"))
    assert await exchange.receive() == {"type": "websocket.receive", "text": "ho", "bytes": None}
    assert await exchange.receive() == {"type": "websocket.receive", "text": None, "bytes": b"\x01"}


async def test_a_client_closes_a_websocket(ends: Ends) -> None:
    worker, gateway = ends
    exchange = SocketExchange(worker)
    await exchange.receive()
    gateway.send(frames.SocketClose(1001, "bye"))
    assert await exchange.receive() == {"type": "websocket.disconnect", "code": 1001, "reason": "bye"}
    assert exchange.finished


async def test_a_client_that_vanishes_is_an_abnormal_closure(ends: Ends) -> None:
    worker, gateway = ends
    exchange = SocketExchange(worker)
    await exchange.receive()
    gateway.abort()
    assert (await exchange.receive())["code"] == 1006
    with pytest.raises(OSError, match="gone"):
        await exchange.send({"type": "websocket.send", "text": "anyone?"})


async def test_a_function_closes_a_websocket(ends: Ends) -> None:
    worker, gateway = ends
    exchange = SocketExchange(worker)
    await exchange.send({"type": "websocket.close"})
    assert exchange.finished
    assert await gateway.receive() == frames.SocketClose(1000, "")


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 3000, 4999])
async def test_closing_codes_that_may_be_sent_are_sent(ends: Ends, code: int) -> None:
    worker, gateway = ends
    await SocketExchange(worker).send({"type": "websocket.close", "code": code, "reason": "ö" * 61})
    assert await gateway.receive() == frames.SocketClose(code, "ö" * 61)


@pytest.mark.parametrize(
    ("code", "reason"), [(0, ""), (1004, ""), (1005, ""), (1006, ""), (2999, ""), (1000, "ö" * 62)]
)
async def test_closing_codes_that_may_not_be_sent_are_refused(ends: Ends, code: int, reason: str) -> None:
    worker, _ = ends
    exchange = SocketExchange(worker)
    with pytest.raises(ValueError, match="WebSocket"):
        await exchange.send({"type": "websocket.close", "code": code, "reason": reason})
    assert not exchange.finished


async def test_a_handshake_can_be_refused_with_a_response(ends: Ends) -> None:
    worker, gateway = ends
    exchange = SocketExchange(worker)
    start = {"type": "websocket.http.response.start", "status": 403, "headers": [(b"X", b"y")]}
    await exchange.send(start)
    await exchange.send({"type": "websocket.http.response.body", "body": b"n", "more_body": True})
    await exchange.send({"type": "websocket.http.response.body", "body": b"o"})
    assert exchange.finished
    assert [await gateway.receive() for _ in range(3)] == [
        frames.Start(403, [(b"x", b"y")]),
        frames.Body(b"n", True),
        frames.Body(b"o", False),
    ]


async def test_a_websocket_cannot_outrun_its_client(ends: Ends) -> None:
    worker, gateway = ends
    exchange = SocketExchange(worker)
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            await exchange.send({"type": "websocket.send", "bytes": bytes(32 * 1024)})
            sent += 1

    pouring = asyncio.ensure_future(pour())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.02)
    assert sent * 32 * 1024 < 4 * 1024 * 1024
    gateway.abort()
    with pytest.raises(OSError, match="gone"):
        await pouring
