"""The door between two processes."""

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
from runtime.door import Door, socket_pair
from runtime.errors import ChannelClosed, FrameError
from runtime.framing import MAX_FRAME, pack

pytestmark = pytest.mark.anyio

ENGINE = msgspec.msgpack.Decoder(frames.EngineControl)
NAMED = frames.Connect("a")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is the state that is awaited, whoever sets it
            await asyncio.sleep(0)


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
        [
            b"\xff\xff\xff\x00",
            b"\x01\x00\x00\x00\xc1",
            pack(frames.Kill(1)),
            pack(frames.Connect("b"), 1),
            b"\x03\x00\x00\x00\x91\xa1\x80",
            (3006).to_bytes(4, "little") + b"\x94\xa2CN\xa0\x00" + b"\x91" * 3000,
        ],
        ids=["too long", "no msgpack", "another vocabulary", "descriptor missing", "no text", "no bottom"],
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

    def test_a_door_that_takes_no_descriptors_never_holds_one(self) -> None:
        one, peer = socket_pair()
        door, before = Door(one, ENGINE, takes_fds=False), open_descriptors()
        fd = marked("unwanted")
        socket.send_fds(peer, [pack(NAMED)], [fd] * 50)
        socket.send_fds(peer, [pack(NAMED, 1)[:3]], [fd] * 50)
        assert door.receive() == [(NAMED, [])]
        assert door.receive() == []
        assert open_descriptors() == before | {fd}
        peer.send(pack(NAMED, 1)[3:])
        with pytest.raises(FrameError, match="without its descriptors"):
            door.receive()
        os.close(fd)
        door.close()
        peer.close()

    @pytest.mark.parametrize("claimed", [0, 1])
    def test_descriptors_that_no_frame_claims_are_an_error_and_are_closed(self, claimed: int) -> None:
        one, peer = socket_pair()
        door, before, number = Door(one, ENGINE), open_descriptors(), one.fileno()
        fd = marked("too many")
        socket.send_fds(peer, [pack(NAMED, claimed)], [fd] * (claimed + 1))
        with pytest.raises(FrameError, match="without a frame"):
            door.receive()
        door.close()
        os.close(fd)
        assert open_descriptors() == before - {number}
        peer.close()

    def test_a_frame_that_never_ends_cannot_pile_descriptors_up(self) -> None:
        one, peer = socket_pair()
        door, before, number = Door(one, ENGINE), open_descriptors(), one.fileno()
        fd = marked("more and more")
        socket.send_fds(peer, [b"\xff\xff\x0f\x00"], [fd] * 60)
        assert door.receive() == []
        socket.send_fds(peer, [b"x"], [fd] * 60)
        with pytest.raises(FrameError):
            door.receive()
        door.close()
        os.close(fd)
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


def test_the_sockets_of_a_pair_do_not_survive_an_exec() -> None:
    one, other = socket_pair()
    assert not one.get_inheritable()
    assert not other.get_inheritable()
    one.close()
    other.close()
