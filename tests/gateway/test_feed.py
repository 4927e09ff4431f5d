"""A request's body on its way from the client to a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from starlette.types import Message, Scope

from runtime import frames
from runtime.channel import CHUNK, Stream, open_stream
from runtime.door import socket_pair
from runtime.errors import BadRequest, ChannelClosed, PayloadTooLarge
from runtime.gateway.client import CLIENT
from runtime.gateway.feed import KEPT, ClientGone, Feed
from runtime.gateway.responsestream import ResponseStream
from runtime.ledger import Ledger, new_file
from tests.gateway.house import turns, until

pytestmark = pytest.mark.anyio

REQUESTS = msgspec.msgpack.Decoder(frames.RequestFrame)
CHUNKED = [(b"transfer-encoding", b"chunked")]
PIECE = 16 * 1024


class Sender:
    """A client as its server shows it: body events, one by one, then its leaving."""

    def __init__(self, *pieces: bytes) -> None:
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        self.taken = 0
        for index, piece in enumerate(pieces):
            self.sends(piece, more=index + 1 < len(pieces))

    def sends(self, data: bytes, *, more: bool = True) -> None:
        self.events.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def leaves(self) -> None:
        self.events.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        event = await self.events.get()
        self.taken += len(event.get("body", b""))
        return event


class Connected:
    """The client's connection, where the server lets us see it."""

    def __init__(self, *, whole: bool = True) -> None:
        self.on_leave: Callable[[], object] | None = None
        self.left = False
        self.whole = whole

    def has_left(self) -> bool:
        return self.left

    def has_sent_all(self, scope: Scope) -> bool:
        return self.whole

    def leaves(self) -> None:
        self.left = True
        if self.on_leave is not None:
            self.on_leave()


class Line:
    """The connection to a worker, which the test plays."""

    def __init__(self, stream: ResponseStream, worker: Stream[frames.RequestFrame]) -> None:
        self.stream, self.worker = stream, worker

    async def pieces(self) -> list[bytes]:
        """What arrives of the body, until its end."""
        pieces = []
        while True:
            frame = await self.worker.receive()
            if isinstance(frame, frames.Body):
                pieces.append(frame.data)
                if not frame.more:
                    return pieces


async def opened() -> Line:
    ours, theirs = socket_pair()
    ledger = Ledger(new_file(1))
    stream = await open_stream(ours, lambda: ResponseStream(ledger, 0, lambda: None))
    return Line(stream, await open_stream(theirs, lambda: Stream(REQUESTS)))


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = await opened()
    yield line
    line.stream.abort()
    line.worker.abort()


def scope(headers: list[tuple[bytes, bytes]] | None = None, client: Connected | None = None) -> Scope:
    scope: Scope = {"type": "http", "headers": headers or []}
    return scope if client is None else {**scope, CLIENT: client}


def announced(length: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", str(length).encode())]


def head() -> frames.Head:
    return frames.Head(request_id="1", method="POST", path="/f", raw_path=b"/f", headers=[])


# --- what the head announces --------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ([], False),
        (announced(0), False),
        (announced(1), True),
        (CHUNKED, True),
        ([(b"x", b"y"), *CHUNKED], True),
    ],
)
def test_the_head_says_whether_a_body_follows(headers: list[tuple[bytes, bytes]], more: bool) -> None:
    assert Feed(scope(headers), Sender().receive, 0).more is more


def test_a_body_that_announces_too_much_is_refused_before_it_is_read() -> None:
    Feed(scope(announced(1000)), Sender().receive, 1000)
    with pytest.raises(PayloadTooLarge, match=r"limit of 0\.001 MB \(max_body_mb\)"):
        Feed(scope(announced(1001)), Sender().receive, 1000)


def test_no_limit_is_no_limit() -> None:
    Feed(scope(announced(10**12)), Sender().receive, 0)


@pytest.mark.parametrize("length", [b"", b"-1", b"1e3", b"0x10", "\u0661".encode(), b"1 2"])
def test_a_length_that_is_no_number_is_refused(length: bytes) -> None:
    with pytest.raises(BadRequest):
        Feed(scope([(b"content-length", length)]), Sender().receive, 0)


# --- passing it on ------------------------------------------------------------------------


async def test_a_request_without_a_body_is_a_head_alone(line: Line) -> None:
    feed, sent = Feed(scope(), Sender(b"").receive, 0), head()
    stop = feed.begin(sent, line.stream)
    assert await line.worker.receive() == sent
    assert not sent.more
    stop()


async def test_a_body_is_passed_on_as_it_comes(line: Line) -> None:
    sender = Sender()
    feed = Feed(scope(CHUNKED), sender.receive, 0)
    stop = feed.begin(head(), line.stream)
    arrived = await line.worker.receive()
    assert isinstance(arrived, frames.Head)
    assert arrived.more
    sender.sends(b"a")
    assert await line.worker.receive() == frames.Body(b"a", True)
    sender.sends(b"b", more=False)
    assert await line.worker.receive() == frames.Body(b"b", False)
    await turns()
    assert not feed.more
    stop()


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK + 5])
async def test_a_large_piece_is_cut_into_frames(line: Line, size: int) -> None:
    data = bytes(index % 253 for index in range(size))
    feed = Feed(scope(CHUNKED), Sender(data).receive, 0)
    stop = feed.begin(head(), line.stream)
    feed.accepted()
    pieces = await line.pieces()
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= CHUNK
    stop()


async def test_a_body_that_is_here_already_goes_with_the_head(line: Line) -> None:
    client = Connected()
    feed = Feed(scope(announced(5), client), Sender(b"hello").receive, 0)
    await feed.prefetch()
    assert not feed.more
    stop = feed.begin(head(), line.stream)
    assert isinstance(await line.worker.receive(), frames.Head)
    assert await line.worker.receive() == frames.Body(b"hello", False)
    assert client.on_leave is not None
    stop()
    assert client.on_leave is None


async def test_a_body_that_is_not_all_here_is_not_waited_for(line: Line) -> None:
    feed = Feed(scope(announced(5), Connected(whole=False)), Sender().receive, 0)
    await feed.prefetch()
    assert feed.more


# --- before a worker has accepted ---------------------------------------------------------


async def test_little_is_read_before_a_worker_has_accepted(line: Line) -> None:
    sender = Sender(*[bytes(PIECE)] * 20)
    feed = Feed(scope(CHUNKED), sender.receive, 0)
    stop = feed.begin(head(), line.stream)
    await turns(100)
    assert sender.taken == KEPT
    assert feed.replayable
    feed.accepted()
    assert sum(map(len, await line.pieces())) == 20 * PIECE
    assert sender.taken == 20 * PIECE
    stop()


async def test_a_client_that_leaves_before_a_worker_has_accepted_is_noticed(line: Line) -> None:
    client, sender = Connected(whole=False), Sender(*[bytes(PIECE)] * 20)
    feed = Feed(scope(CHUNKED, client), sender.receive, 0)
    stop = feed.begin(head(), line.stream)
    await until(lambda: sender.taken == KEPT and client.on_leave)
    client.leaves()
    assert isinstance(feed.failure, ClientGone)
    await until(lambda: line.worker.closed)
    stop()
    await turns()
    assert client.on_leave is None


async def test_a_client_that_leaves_while_its_body_is_held_back_is_noticed(line: Line) -> None:
    client, sender = Connected(whole=False), Sender(*[bytes(PIECE)] * 200)
    feed = Feed(scope(CHUNKED, client), sender.receive, 0)
    stop = feed.begin(head(), line.stream)
    feed.accepted()
    line.worker._pause()  # the function reads nothing
    await until(lambda: line.stream._congested and client.on_leave)
    assert sender.taken < 200 * PIECE
    client.leaves()
    assert isinstance(feed.failure, ClientGone)
    await until(lambda: line.stream.closed)
    stop()
    await turns()
    assert client.on_leave is None


async def test_a_body_that_flows_is_passed_on_without_watching_the_connection(line: Line) -> None:
    class Watched(Connected):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "on_leave" and value is not None:
                raise AssertionError("its reader tells of the client's leaving")
            super().__setattr__(name, value)

    pieces = [bytes([number]) * PIECE for number in range(10)]
    feed = Feed(scope(CHUNKED, Watched(whole=False)), Sender(*pieces).receive, 0)
    stop = feed.begin(head(), line.stream)
    feed.accepted()
    await line.worker.receive()
    assert await line.pieces() == pieces
    stop()


async def test_a_feed_that_was_given_up_leaves_the_clients_next_watcher_alone(line: Line) -> None:
    client, sender = Connected(whole=False), Sender(*[bytes(PIECE)] * 20)
    stop = Feed(scope(CHUNKED, client), sender.receive, 0).begin(head(), line.stream)
    await until(lambda: client.on_leave)
    stop()
    client.on_leave = another = lambda: None
    await turns()
    assert client.on_leave is another


async def test_another_worker_gets_the_whole_of_what_was_read() -> None:
    sender = Sender(*[bytes([number]) * PIECE for number in range(6)])
    feed = Feed(scope(CHUNKED), sender.receive, 0)
    first = await opened()
    stop = feed.begin(head(), first.stream)
    await turns(50)
    assert sender.taken == KEPT
    stop()
    first.stream.abort()
    second = await opened()
    stop = feed.begin(head(), second.stream)
    feed.accepted()
    assert b"".join(await second.pieces()) == b"".join(bytes([number]) * PIECE for number in range(6))
    stop()
    for line in (first, second):
        line.stream.abort()
        line.worker.abort()


async def test_another_worker_gets_a_body_that_was_read_to_its_end() -> None:
    feed = Feed(scope(CHUNKED), Sender(b"a", b"b").receive, 0)
    first = await opened()
    stop = feed.begin(head(), first.stream)
    assert await first.pieces() == [b"a", b"b"]
    stop()
    second = await opened()
    again = head()
    stop = feed.begin(again, second.stream)
    assert again.more
    assert await second.pieces() == [b"a", b"b"]
    stop()
    for line in (first, second):
        line.stream.abort()
        line.worker.abort()


async def test_another_worker_must_accept_before_more_is_read_than_is_kept() -> None:
    sender = Sender()
    sender.sends(bytes(PIECE))
    feed = Feed(scope(CHUNKED), sender.receive, 0)
    first = await opened()
    stop = feed.begin(head(), first.stream)
    await turns()
    feed.accepted(keep=True)
    stop()
    for number in range(20):
        sender.sends(bytes([number]) * PIECE)
    second = await opened()
    stop = feed.begin(head(), second.stream)
    await turns(100)
    assert sender.taken == KEPT
    assert feed.replayable
    stop()
    for line in (first, second):
        line.stream.abort()
        line.worker.abort()


async def test_what_was_accepted_is_not_kept(line: Line) -> None:
    sender = Sender(b"abc")
    feed = Feed(scope(CHUNKED), sender.receive, 0)
    stop = feed.begin(head(), line.stream)
    await line.pieces()
    feed.accepted()
    assert not feed.replayable
    assert feed._kept == []
    stop()


async def test_what_is_repeatable_is_kept_while_it_is_small(line: Line) -> None:
    sender = Sender()
    feed = Feed(scope(CHUNKED), sender.receive, 0)
    stop = feed.begin(head(), line.stream)
    sender.sends(bytes(PIECE))
    await until(lambda: sender.taken == PIECE)
    feed.accepted(keep=True)
    sender.sends(bytes(PIECE))
    await until(lambda: sender.taken == 2 * PIECE)
    await turns()
    small = feed.replayable
    for _ in range(4):
        sender.sends(bytes(PIECE))
    await until(lambda: sender.taken == 6 * PIECE)
    await turns()
    assert (small, feed.replayable) == (True, False)
    assert sum(map(len, feed._kept)) <= KEPT
    stop()


# --- backpressure and limits --------------------------------------------------------------


async def test_a_worker_that_reads_nothing_stops_the_client(line: Line) -> None:
    sender = Sender(*[bytes(PIECE)] * 400)
    feed = Feed(scope(CHUNKED), sender.receive, 0)
    stop = feed.begin(head(), line.stream)
    feed.accepted()
    before = -1
    while before != sender.taken:
        before = sender.taken
        await asyncio.sleep(0.02)
    assert sender.taken < 200 * PIECE
    stop()


async def test_a_body_over_its_limit_aborts_the_worker_and_says_why(line: Line) -> None:
    feed = Feed(scope(CHUNKED), Sender(bytes(600), bytes(600)).receive, 1000)
    feed.begin(head(), line.stream)
    await until(lambda: line.worker.closed)
    assert isinstance(feed.failure, PayloadTooLarge)


async def test_a_body_over_its_limit_that_is_here_already_is_refused() -> None:
    feed = Feed(scope(CHUNKED, Connected()), Sender(bytes(1001)).receive, 1000)
    with pytest.raises(PayloadTooLarge):
        await feed.prefetch()


async def test_a_body_of_just_the_limit_is_fine(line: Line) -> None:
    feed = Feed(scope(CHUNKED), Sender(bytes(500), bytes(500)).receive, 1000)
    stop = feed.begin(head(), line.stream)
    assert sum(map(len, await line.pieces())) == 1000
    assert feed.failure is None
    stop()


# --- the client leaves --------------------------------------------------------------------


@pytest.mark.parametrize("headers", [[], CHUNKED], ids=["without a body", "with a body"])
@pytest.mark.parametrize("shown", [False, True], ids=["plain ASGI", "our server"])
async def test_the_clients_leaving_aborts_the_worker(
    line: Line, headers: list[tuple[bytes, bytes]], shown: bool
) -> None:
    client, sender = Connected(whole=False), Sender(b"")
    feed = Feed(scope(headers, client if shown else None), sender.receive, 0)
    feed.begin(head(), line.stream)
    await turns()
    assert not line.stream.lost
    client.leaves()
    sender.leaves()
    await until(lambda: line.worker.closed)
    assert isinstance(feed.failure, ClientGone)


async def test_a_client_that_left_before_the_beginning_is_noticed(line: Line) -> None:
    client = Connected()
    client.left = True
    feed = Feed(scope([], client), Sender().receive, 0)
    feed.begin(head(), line.stream)
    assert isinstance(feed.failure, ClientGone)
    await until(lambda: line.worker.closed)


async def test_a_worker_that_goes_ends_the_pouring_without_a_failure(line: Line) -> None:
    sender = Sender(b"a")
    sender.sends(b"b")
    feed = Feed(scope(CHUNKED), sender.receive, 0)
    feed.begin(head(), line.stream)
    line.worker.abort()
    with pytest.raises(ChannelClosed):
        await line.stream.receive()
    assert feed.failure is None


async def test_after_the_end_the_client_may_leave(line: Line) -> None:
    client = Connected()
    feed = Feed(scope([], client), Sender().receive, 0)
    feed.begin(head(), line.stream)()
    client.leaves()
    await turns()
    assert feed.failure is None
    assert not line.stream.lost


# --- while the request waits for its turn -------------------------------------------------


async def wait_with(feed: Feed) -> None:
    with feed.waiting():
        await asyncio.Event().wait()


async def test_a_client_that_leaves_gives_its_turn_up() -> None:
    client = Connected()
    waiting = asyncio.create_task(wait_with(Feed(scope([], client), Sender().receive, 0)))
    await turns()
    client.leaves()
    with pytest.raises(ClientGone):
        await waiting
    assert client.on_leave is None


async def test_a_client_that_left_already_does_not_wait() -> None:
    client = Connected()
    client.left = True
    with pytest.raises(ClientGone):
        await wait_with(Feed(scope([], client), Sender().receive, 0))


async def test_a_wait_that_is_cancelled_for_another_reason_is_cancelled() -> None:
    client = Connected()
    waiting = asyncio.create_task(wait_with(Feed(scope([], client), Sender().receive, 0)))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_wait_that_is_over_no_longer_ends_with_the_client(line: Line) -> None:
    client: Any = Connected()
    with Feed(scope([], client), Sender().receive, 0).waiting():
        assert client.on_leave is not None
    assert client.on_leave is None


async def test_without_a_client_to_see_the_wait_goes_on() -> None:
    with Feed(scope(), Sender().receive, 0).waiting():
        await asyncio.sleep(0)
