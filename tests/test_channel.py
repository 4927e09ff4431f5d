"""The corridor between two processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from runtime import frames
from runtime.channel import Stream, has_hung_up, open_stream
from runtime.door import socket_pair
from runtime.errors import ChannelClosed, FrameError
from runtime.framing import MAX_FRAME, pack

pytestmark = pytest.mark.anyio

Frame = frames.RequestFrame
DECODER = msgspec.msgpack.Decoder(frames.RequestFrame)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def body(text: str) -> frames.Body:
    return frames.Body(text.encode(), True)


async def pair() -> tuple[Stream[Frame], Stream[Frame]]:
    one, other = socket_pair()
    return await open_stream(one, lambda: Stream(DECODER)), await open_stream(other, lambda: Stream(DECODER))


async def half() -> tuple[Stream[Frame], socket.socket]:
    """A stream whose other side is played by the test."""
    ours, peer = socket_pair()
    peer.setblocking(False)
    return await open_stream(ours, lambda: Stream(DECODER)), peer


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is the state that is awaited, whoever sets it
            await asyncio.sleep(0)


def flood(peer: socket.socket, data: bytes = b"") -> None:
    """Send frames until nobody takes them any more."""
    frame = pack(frames.Body(data, True))
    with contextlib.suppress(OSError):
        while True:
            peer.sendall(frame * 20)


async def sent_until_stuck(stream: Stream[Frame], piece: frames.Body, most: int = 400) -> int:
    """Send and drain until the other side does not take any more; how many were sent."""
    for count in range(most):
        stream.send(piece)
        try:
            async with asyncio.timeout(0.05):
                await stream.drain()
        except TimeoutError:
            return count + 1
    raise AssertionError("the other side takes everything")


async def count_to_the_end(stream: Stream[Frame]) -> int:
    """How many frames arrive before the connection ends."""
    count = 0
    try:
        while True:
            await stream.receive()
            count += 1
    except ChannelClosed:
        return count


class TestStream:
    async def test_frames_arrive_in_order_both_ways(self) -> None:
        one, other = await pair()
        for number in range(100):
            one.send(body(f"there {number}"))
            other.send(body(f"back {number}"))
        assert [await other.receive() for _ in range(100)] == [body(f"there {n}") for n in range(100)]
        assert [await one.receive() for _ in range(100)] == [body(f"back {n}") for n in range(100)]
        one.abort()
        other.abort()

    async def test_a_flood_of_small_frames_arrives_in_order_and_leaves_turns_to_others(self) -> None:
        one, other = await pair()
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        neighbour = asyncio.ensure_future(others())
        count = 10_000
        one.send(*[body(str(number)) for number in range(count)])
        assert [await other.receive() for _ in range(count)] == [body(str(number)) for number in range(count)]
        assert turns > 10
        neighbour.cancel()
        one.abort()
        other.abort()

    async def test_a_flood_that_nobody_takes_costs_little_memory(self) -> None:
        one, other = await pair()
        for _ in range(200):
            one.send(*[body("")] * 1000)
        before = -1
        while before != len(other._frames):
            before = len(other._frames)
            await asyncio.sleep(0.01)
        assert before < 10_000
        one.abort()
        other.abort()

    async def test_several_frames_can_go_at_once(self) -> None:
        one, other = await pair()
        one.send(body("a"), body("b"), body("c"))
        assert [await other.receive() for _ in range(3)] == [body("a"), body("b"), body("c")]
        one.abort()
        other.abort()

    async def test_a_frame_that_is_too_long_is_refused_and_the_stream_goes_on(self) -> None:
        one, other = await pair()
        with pytest.raises(FrameError):
            one.send(frames.Body(bytes(MAX_FRAME)))
        one.send(body("next"))
        assert await other.receive() == body("next")
        one.abort()
        other.abort()

    async def test_a_reader_that_takes_nothing_stalls_the_writer_and_costs_little_memory(self) -> None:
        one, other = await pair()
        piece = frames.Body(bytes(32 * 1024), True)
        sent = await sent_until_stuck(one, piece)
        assert other._waiting <= 256 * 1024 + 2 * 256 * 1024  # what was allowed, and one read of the loop
        taken = [await other.receive() for _ in range(sent)]
        await one.drain()
        assert taken == [piece] * sent
        one.abort()
        other.abort()

    async def test_what_is_forgotten_makes_room_for_more(self) -> None:
        one, other = await pair()
        await sent_until_stuck(one, frames.Body(bytes(32 * 1024), True))
        draining = asyncio.ensure_future(one.drain())
        while not draining.done():
            other.forget()
            await asyncio.sleep(0)
        await draining
        one.abort()
        other.abort()

    async def test_what_is_useless_can_be_dropped_and_the_rest_keeps_its_order(self) -> None:
        one, other = await pair()
        one.send(*(body(text) for text in "abcbd"))
        await until(lambda: other.newest == body("d"))
        other.drop(lambda frame: frame == body("b"))
        assert [await other.receive() for _ in range(3)] == [body(text) for text in "acd"]
        one.abort()
        other.abort()

    async def test_dropping_what_filled_the_queue_lets_more_arrive(self) -> None:
        one, other = await pair()
        await sent_until_stuck(one, frames.Body(bytes(32 * 1024), True))
        draining = asyncio.ensure_future(one.drain())
        while not draining.done():
            other.drop(lambda frame: True)
            await asyncio.sleep(0)
        await draining
        one.abort()
        other.abort()

    async def test_whoever_waits_for_what_is_forgotten_waits_no_longer(self) -> None:
        one, other = await pair()
        waiting = asyncio.ensure_future(other.receive())
        await asyncio.sleep(0)
        other.forget()
        with pytest.raises(ChannelClosed):
            await waiting
        one.send(body("next"))
        assert await other.receive() == body("next")
        one.abort()
        other.abort()

    async def test_closing_sends_what_is_queued_first(self) -> None:
        one, other = await pair()
        for _ in range(40):
            one.send(frames.Body(bytes(32 * 1024), True))
        one.close()
        one.close()
        assert await count_to_the_end(other) == 40

    async def test_aborting_forgets_what_is_queued(self) -> None:
        one, other = await pair()
        sent = await sent_until_stuck(one, frames.Body(bytes(32 * 1024), True))
        one.abort()
        one.abort()
        await until(lambda: one.closed)
        assert await count_to_the_end(other) < sent

    async def test_what_arrived_before_the_end_can_still_be_taken(self) -> None:
        one, other = await pair()
        one.send(body("last words"))
        one.close()
        await until(lambda: other.closed)
        assert await other.receive() == body("last words")
        with pytest.raises(ChannelClosed):
            await other.receive()

    async def test_what_the_other_side_said_before_it_died_is_heard_even_if_we_were_writing(self) -> None:
        """Else a request could be sent a second time although its handler had begun."""
        stream, peer = await half()
        peer.send(pack(body("accepted")))
        peer.close()
        stream.send(body("more of the request"))
        assert await stream.receive() == body("accepted")
        with pytest.raises(ChannelClosed):
            await stream.receive()

    async def test_whoever_waits_is_told_of_the_end(self) -> None:
        one, other = await pair()
        waiting = asyncio.ensure_future(other.receive())
        await asyncio.sleep(0)
        one.close()
        with pytest.raises(ChannelClosed):
            await waiting
        with pytest.raises(ChannelClosed):
            await other.drain()

    async def test_a_writer_that_waits_is_told_of_the_end(self) -> None:
        one, other = await pair()
        await sent_until_stuck(one, frames.Body(bytes(32 * 1024), True))
        stuck = [asyncio.ensure_future(one.drain()) for _ in range(2)]
        await asyncio.sleep(0)
        stuck[0].cancel()
        other.abort()
        assert isinstance((await asyncio.gather(*stuck, return_exceptions=True))[1], ChannelClosed)

    async def test_draining_notices_the_end_before_the_loop_tells(self) -> None:
        stream, peer = await half()
        peer.close()
        stream.send(body("anyone?"))
        stream.send(body("no"))
        draining = stream.drain()
        with pytest.raises(ChannelClosed):  # without a turn of the loop, as for a generator that never waits
            draining.send(None)

    async def test_a_closed_stream_swallows_what_is_sent(self) -> None:
        one, other = await pair()
        other.abort()
        await until(lambda: one.closed)
        one.send(body("nobody hears"))
        one.send_soon(body("nobody hears"))
        await asyncio.sleep(0)
        one.close()
        one.abort()

    async def test_sending_right_after_the_abort_does_no_harm(self) -> None:
        one, other = await pair()
        one.abort()
        one.send(body("nobody hears"))
        one.send_soon(body("nobody hears"))
        await asyncio.sleep(0)
        with pytest.raises(ChannelClosed):
            await other.receive()

    @pytest.mark.parametrize("end", ["close", "abort", "peer"])
    async def test_the_end_is_told_once(self, end: str) -> None:
        one, other = await pair()
        told: list[str] = []
        one.on_lost = lambda: told.append("lost")
        (other.abort if end == "peer" else getattr(one, end))()
        await until(lambda: one.closed)
        one.abort()
        one.close()
        other.abort()
        await until(lambda: other.closed)
        assert told == ["lost"]

    async def test_a_receiver_that_gives_up_leaves_the_frame_to_the_next(self) -> None:
        one, other = await pair()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await other.receive()
        one.send(body("here"))
        assert await other.receive() == body("here")
        one.abort()
        other.abort()

    async def test_a_receiver_that_gives_up_late_does_not_strand_the_next(self) -> None:
        one, other = await pair()
        earlier = asyncio.ensure_future(other.receive())
        await asyncio.sleep(0)
        later = asyncio.ensure_future(other.receive())
        await asyncio.sleep(0)
        earlier.cancel()
        await asyncio.sleep(0)
        one.send(body("here"))
        async with asyncio.timeout(5):
            assert await later == body("here")
        one.abort()
        other.abort()

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\xff\xff\xff\x00",
            b"\x01\x00\x00\x00\xc1",
            pack(frames.Kill(1)),
            b"\x02\x00\x00\x00\x91\xa1",
            b"\x03\x00\x00\x00\x91\xa1\x80",
            (3006).to_bytes(4, "little") + b"\x94\xa1B\xc4\x00\xc2" + b"\x91" * 3000,
        ],
        ids=["too long", "no msgpack", "another vocabulary", "cut off", "no text", "without a bottom"],
    )
    async def test_what_makes_no_sense_ends_the_connection(self, garbage: bytes) -> None:
        stream, peer = await half()
        peer.send(garbage)
        with pytest.raises(ChannelClosed):
            await stream.receive()
        peer.close()

    async def test_a_frame_sent_soon_goes_with_the_next_and_before_it(self) -> None:
        stream, peer = await half()
        stream.send_soon(body("first"))
        stream.send_soon(body("second"))
        stream.send(body("third"))
        await until(lambda: select.select([peer], [], [], 0)[0])
        assert peer.recv(1000) == pack(body("first")) + pack(body("second")) + pack(body("third"))
        stream.send(body("fourth"))
        await until(lambda: select.select([peer], [], [], 0)[0])
        assert peer.recv(1000) == pack(body("fourth"))
        stream.abort()
        peer.close()

    async def test_a_frame_sent_soon_goes_alone_if_nothing_follows(self) -> None:
        stream, peer = await half()
        stream.send_soon(body("alone"))
        await until(lambda: select.select([peer], [], [], 0)[0])
        assert peer.recv(1000) == pack(body("alone"))
        stream.abort()
        peer.close()

    async def test_a_frame_longer_than_the_kernel_takes_at_once_arrives_whole(self) -> None:
        one, other = await pair()
        large = frames.Body(os.urandom(900_000), True)
        one.send(large, body("next"))
        assert [await other.receive(), await other.receive()] == [large, body("next")]
        one.abort()
        other.abort()

    async def test_a_flood_of_small_frames_is_decoded_over_many_turns(self) -> None:
        turns: set[int] = set()
        turn, taken = 0, 0

        class Eager(Stream[Frame]):
            def arrived(self, frame: Frame, size: int) -> None:
                nonlocal taken
                taken += 1
                turns.add(turn)

        ours, peer = socket_pair()
        stream = await open_stream(ours, lambda: Eager(DECODER))
        data = pack(body("")) * 8_000
        peer.send(data)
        peer.close()
        while not stream.closed:
            turn += 1
            await asyncio.sleep(0)
        assert taken == 8_000
        assert len(turns) >= 8_000 / 512

    async def test_whoever_takes_a_flood_lets_others_have_their_turn(self) -> None:
        stream, peer = await half()
        peer.setblocking(True)
        peer.send(pack(body("")) * 4_000)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(other())
        for _ in range(4_000):
            await stream.receive()
        beside.cancel()
        assert turns >= 4_000 / 64
        stream.abort()
        peer.close()

    async def test_small_frames_count_for_more_than_their_bytes(self) -> None:
        """The queue's memory is bounded, whatever the frames hold."""
        stream, peer = await half()
        peer.setblocking(True)
        threading.Thread(target=flood, args=(peer,), daemon=True).start()
        await until(lambda: stream._paused)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(stream._frames) < 3_000
        stream.abort()
        peer.close()

    async def test_last_words_have_an_end(self) -> None:
        stream, peer = await half()
        heard = 0

        def arrived(frame: Frame, size: int) -> None:
            nonlocal heard
            heard += size

        stream.arrived = arrived  # type: ignore[method-assign]
        stream._transport.pause_reading()
        peer.setblocking(True)
        threading.Thread(target=flood, args=(peer, bytes(10_000)), daemon=True).start()
        await until(lambda: select.select([stream._fd], [], [], 0)[0])
        stream.connection_lost(ConnectionResetError())
        assert 0 < heard <= 600 * 1024
        stream._transport.abort()
        await asyncio.sleep(0)
        peer.close()

    async def test_a_subclass_may_take_frames_at_once(self) -> None:
        taken: list[Frame] = []

        class Eager(Stream[Frame]):
            def arrived(self, frame: Frame, size: int) -> None:
                taken.append(frame)

        ours, peer = socket_pair()
        stream = await open_stream(ours, lambda: Eager(DECODER))
        peer.send(pack(body("a")) + pack(body("b")))
        await until(lambda: len(taken) == 2)
        stream.abort()
        peer.close()


# --- the other side's end -----------------------------------------------------------------


def test_a_side_that_has_hung_up_is_noticed_though_nothing_was_read() -> None:
    one, other = socket.socketpair()
    with one:
        with other:
            other.sendall(b"unread")
            assert not has_hung_up(one.fileno())
        assert has_hung_up(one.fileno())


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="Linux alone tells")
def test_a_side_that_only_stopped_sending_is_noticed_by_who_asks_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one, other = socket.create_connection(server.getsockname()), server.accept()[0]
    with one, other:
        assert not has_hung_up(one.fileno(), select.POLLRDHUP)
        other.shutdown(socket.SHUT_WR)
        assert not has_hung_up(one.fileno())
        assert has_hung_up(one.fileno(), select.POLLRDHUP)
