"""The corridor between two processes."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import frames
from runtime.channel import CHUNK, Stream, open_stream
from runtime.door import Door, socket_pair
from runtime.errors import ChannelClosed, FrameError
from runtime.framing import MAX_FRAME, Unpacker, pack

pytestmark = pytest.mark.anyio

Frame = frames.RequestFrame
DECODER = msgspec.msgpack.Decoder(frames.RequestFrame)
ENGINE = msgspec.msgpack.Decoder(frames.EngineControl)
NAMED = frames.Connect("a")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def body(text: str) -> frames.Body:
    return frames.Body(text.encode(), True)


# --- cutting ------------------------------------------------------------------------------


class TestUnpacker:
    @given(
        st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 255)), max_size=20),
        st.lists(st.integers(1, 40), min_size=1, max_size=50),
    )
    def test_frames_come_out_as_they_went_in_however_the_stream_is_split(
        self, sent: list[tuple[bytes, int]], cuts: list[int]
    ) -> None:
        data = b"".join(pack(frames.Body(content), fds) for content, fds in sent)
        unpacker, arrived = Unpacker(), []
        for cut in cuts:
            arrived += unpacker.feed(data[:cut])
            data = data[cut:]
        arrived += unpacker.feed(data)
        assert [(DECODER.decode(payload), fds) for payload, fds in arrived] == [
            (frames.Body(content), fds) for content, fds in sent
        ]

    def test_a_frame_may_be_as_long_as_the_limit_and_no_longer(self) -> None:
        envelope = len(pack(frames.Body(bytes(MAX_FRAME // 2)))) - 4 - MAX_FRAME // 2
        longest = pack(frames.Body(bytes(MAX_FRAME - envelope)))
        assert len(longest) == MAX_FRAME + 4
        ((payload, _),) = Unpacker().feed(longest)
        assert len(payload) == MAX_FRAME
        with pytest.raises(FrameError, match="Body frame"):
            pack(frames.Body(bytes(MAX_FRAME - envelope + 1)))

    @given(st.integers(MAX_FRAME + 1, 0xFFFFFF), st.integers(0, 255))
    def test_a_header_that_announces_too_much_is_refused_before_its_payload(
        self, length: int, fds: int
    ) -> None:
        with pytest.raises(FrameError, match=str(length)):
            Unpacker().feed((length | fds << 24).to_bytes(4, "little"))

    def test_an_empty_payload_is_a_frame(self) -> None:
        assert Unpacker().feed(bytes(4)) == [(b"", 0)]

    def test_a_piece_of_a_body_fits_into_a_frame(self) -> None:
        assert len(pack(frames.Body(bytes(CHUNK), True))) < MAX_FRAME


# --- streams ------------------------------------------------------------------------------


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
        [b"\xff\xff\xff\x00", b"\x01\x00\x00\x00\xc1", pack(frames.Kill(1)), b"\x02\x00\x00\x00\x91\xa1"],
        ids=["too long", "no msgpack", "another vocabulary", "cut off"],
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

    def test_the_sockets_of_a_pair_do_not_survive_an_exec(self) -> None:
        one, other = socket_pair()
        assert not one.get_inheritable()
        assert not other.get_inheritable()
        one.close()
        other.close()


# --- doors --------------------------------------------------------------------------------


@contextmanager
def doors(decoder: msgspec.msgpack.Decoder[Any] = ENGINE) -> Iterator[tuple[Door[Any], Door[Any]]]:
    one, other = socket_pair()
    ours, theirs = Door(one, decoder), Door(other, decoder)
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


def marked(text: str) -> int:
    """A descriptor that can be told from others by what it holds."""
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    return reader


def content(fd: int) -> str:
    try:
        return os.read(fd, 100).decode()
    finally:
        os.close(fd)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def open_descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd") if is_open(int(name))}


def everything(door: Door[Any], count: int) -> list[tuple[Any, list[int]]]:
    """Wait for this many frames."""
    received: list[tuple[Any, list[int]]] = []
    while len(received) < count:
        received += door.wait()
    return received


def fill(door: Door[Any]) -> int:
    """Send until something waits in the door; how many frames."""
    count = 0
    while not door.pending:
        door.send(frames.Connect("x" * 10_000))
        count += 1
    return count


class TestDoor:
    def test_descriptors_arrive_with_their_frames(self) -> None:
        with doors() as (one, other):
            for name in "abc":
                one.send(frames.Connect(name), [marked(f"{name}1"), marked(f"{name}2")])
            one.send(frames.Drain(1.0))
            arrived = everything(other, 4)
        assert [frame for frame, _ in arrived] == [*map(frames.Connect, "abc"), frames.Drain(1.0)]
        assert [[content(fd) for fd in fds] for _, fds in arrived] == [
            ["a1", "a2"],
            ["b1", "b2"],
            ["c1", "c2"],
            [],
        ]

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 60))
    def test_descriptors_find_their_frames_however_the_bytes_are_cut(
        self, counts: list[int], piece: int
    ) -> None:
        """The kernel may hand descriptors over with an earlier byte than the frame's last."""
        one, peer = socket_pair()
        door = Door(one, ENGINE)
        sent = [frames.Connect(f"{index}:" + "x" * 20 * index) for index in range(len(counts))]
        arrived: list[tuple[Any, list[int]]] = []
        for index, (frame, count) in enumerate(zip(sent, counts, strict=True)):
            fds = [marked(f"{index}.{number}") for number in range(count)]
            data = pack(frame, count)
            for offset in range(0, len(data), piece):
                passed = fds if offset == 0 else []
                socket.send_fds(peer, [data[offset : offset + piece]], passed)
                if offset % 7 == 0:  # sometimes what was sent is taken in one, sometimes in two
                    arrived += door.receive()
            for fd in fds:
                os.close(fd)
        while len(arrived) < len(sent):
            arrived += door.receive()
        assert [frame for frame, _ in arrived] == sent
        for index, (_, fds) in enumerate(arrived):
            assert [content(fd) for fd in fds] == [f"{index}.{number}" for number in range(counts[index])]
        door.close()
        peer.close()

    def test_descriptors_belong_to_the_door_once_they_are_given(self) -> None:
        with doors() as (one, other):
            fd = marked("mine")
            one.send(NAMED, [fd])
            assert not is_open(fd)
            ((_, (received,)),) = everything(other, 1)
            assert not os.get_inheritable(received)
            assert content(received) == "mine"

    def test_descriptors_that_wait_are_closed_with_the_door(self) -> None:
        with doors() as (one, _):
            fill(one)
            fd = marked("waiting")
            one.send(NAMED, [fd])
            assert is_open(fd)
            one.close()
            assert not is_open(fd)
            one.close()

    def test_a_closed_door_closes_what_it_is_given(self) -> None:
        with doors() as (one, _):
            one.close()
            fd = marked("late")
            one.send(NAMED, [fd])
            assert not is_open(fd)

    def test_a_frame_that_is_refused_closes_its_descriptors(self) -> None:
        with doors() as (one, _):
            fd = marked("too much")
            with pytest.raises(FrameError):
                one.send(frames.Connect("x" * MAX_FRAME), [fd])
            assert not is_open(fd)

    def test_a_door_to_nobody_closes_what_it_is_given(self) -> None:
        with doors() as (one, other):
            other.close()
            fd = marked("lost")
            one.send(NAMED, [fd])
            assert not is_open(fd)
            assert not one.pending
            with pytest.raises(ChannelClosed):
                one.receive()

    def test_descriptors_whose_frame_never_came_are_closed_with_the_door(self) -> None:
        one, peer = socket_pair()
        door = Door(one, ENGINE)
        fd = marked("orphan")
        socket.send_fds(peer, [pack(NAMED, 1)[:3]], [fd])
        assert door.receive() == []
        (kept,) = door._fds
        door.close()
        assert not is_open(kept)
        os.close(fd)
        peer.close()

    def test_nothing_there_is_no_error(self) -> None:
        with doors() as (one, _):
            assert one.receive() == []

    def test_the_end_of_the_other_side_is_told_after_its_last_words(self) -> None:
        with doors() as (one, other):
            other.send(NAMED)
            other.close()
            assert one.wait() == [(NAMED, [])]
            with pytest.raises(ChannelClosed):
                one.wait()

    def test_a_reset_is_an_end(self) -> None:
        with doors() as (one, other):
            one.send(NAMED)
            other.close()  # with a frame unread
            with pytest.raises(ChannelClosed):
                one.receive()

    @pytest.mark.parametrize(
        "garbage",
        [b"\xff\xff\xff\x00", b"\x01\x00\x00\x00\xc1", pack(frames.Kill(1)), pack(frames.Connect("b"), 1)],
        ids=["too long", "no msgpack", "another vocabulary", "a descriptor is missing"],
    )
    def test_what_makes_no_sense_is_an_error_and_leaks_no_descriptor(self, garbage: bytes) -> None:
        one, peer = socket_pair()
        door, number = Door(one, ENGINE), one.fileno()
        before = open_descriptors()
        fd = marked("good")
        socket.send_fds(peer, [pack(NAMED, 1) + garbage], [fd])
        os.close(fd)
        with pytest.raises(FrameError):
            door.receive()
        door.close()
        assert open_descriptors() == before - {number}
        peer.close()

    def test_what_the_kernel_does_not_take_waits_and_is_flushed(self) -> None:
        with doors() as (one, other):
            count = fill(one)
            fd = marked("at the end")
            one.send(NAMED, [fd])
            arrived: list[tuple[Any, list[int]]] = []
            while len(arrived) < count + 1:
                select.select([other], [one] if one.pending else [], [], 5)
                one.flush()
                arrived += other.receive()
            assert not one.pending
            assert content(arrived[-1][1][0]) == "at the end"
            assert not is_open(fd)

    def test_waiting_for_an_answer_sends_what_waits(self) -> None:
        with doors() as (one, other):
            count = fill(one)

            def answer() -> None:
                everything(other, count)
                other.send(NAMED)

            answering = threading.Thread(target=answer)
            answering.start()
            assert one.wait() == [(NAMED, [])]
            answering.join()


class Heard:
    """What a listening door was told."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.fds: list[int] = []
        self.lost = 0

    def frame(self, frame: Any, fds: list[int]) -> None:
        self.frames.append(frame)
        self.fds += fds

    def on_lost(self) -> None:
        self.lost += 1


class TestListening:
    async def test_an_event_loop_reads_and_tells_of_the_end_once(self) -> None:
        with doors() as (one, other):
            heard = Heard()
            other.listen(asyncio.get_running_loop(), heard.frame, heard.on_lost)
            one.send(NAMED, [marked("x")])
            one.send(frames.Connect("b"))
            await until(lambda: len(heard.frames) == 2)
            assert heard.frames == [NAMED, frames.Connect("b")]
            assert [content(fd) for fd in heard.fds] == ["x"]
            one.close()
            await until(lambda: heard.lost)
            assert other.closed
            assert heard.lost == 1

    async def test_garbage_ends_the_connection(self) -> None:
        one, peer = socket_pair()
        door, heard = Door(one, ENGINE), Heard()
        door.listen(asyncio.get_running_loop(), heard.frame, heard.on_lost)
        peer.send(b"\xff\xff\xff\x00")
        await until(lambda: heard.lost)
        assert door.closed
        peer.close()

    @pytest.mark.parametrize("before", [True, False], ids=["waiting already", "waiting later"])
    async def test_an_event_loop_sends_what_waits(self, before: bool) -> None:
        loop = asyncio.get_running_loop()
        with doors() as (one, other):
            sender, receiver = Heard(), Heard()
            count = fill(one) if before else 0
            one.listen(loop, sender.frame, sender.on_lost)
            count += 0 if before else fill(one)
            other.listen(loop, receiver.frame, receiver.on_lost)
            await until(lambda: len(receiver.frames) == count)
            assert not one.pending
            one.close(loop)
            other.close(loop)

    async def test_a_door_that_is_closed_by_us_hears_nothing_more(self) -> None:
        loop = asyncio.get_running_loop()
        with doors() as (one, other):
            heard = Heard()
            other.listen(loop, heard.frame, heard.on_lost)
            one.send(NAMED)
            other.close(loop)
            for _ in range(5):
                await asyncio.sleep(0)
            assert (heard.frames, heard.lost) == ([], 0)
