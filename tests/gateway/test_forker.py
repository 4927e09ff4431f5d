"""Asking the supervisor for workers, and learning of their end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
import pytest

from runtime import frames
from runtime.door import Door, socket_pair
from runtime.gateway.forker import Forker

pytestmark = pytest.mark.anyio

DECODER = msgspec.msgpack.Decoder(frames.GatewayToSupervisor)


class Desk:
    """A forker and the supervisor it talks to."""

    def __init__(self) -> None:
        ours, theirs = socket_pair()
        self.door: Door[object] = Door(ours, msgspec.msgpack.Decoder(object))
        self.supervisor = Door(theirs, DECODER)
        self.forker = Forker(self.door)

    def asked(self) -> list[object]:
        """What the supervisor was asked."""
        arrived = self.supervisor.receive()
        for _, fds in arrived:
            for fd in fds:
                os.close(fd)
        return [frame for frame, _ in arrived]


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.door.close()
    desk.supervisor.close()


async def test_a_process_is_asked_for_with_its_descriptors(desk: Desk) -> None:
    reader, writer = os.pipe()
    process = desk.forker.fork("hello", 3, [reader, writer])
    ((frame, fds),) = desk.supervisor.receive()
    assert isinstance(frame, frames.Fork)
    assert (frame.function, frame.slot, len(fds)) == ("hello", 3, 2)
    for fd in fds:
        os.close(fd)
    assert process.pid == 0
    desk.forker.on_forked(frames.Forked(frame.token, 77))
    assert process.pid == process.forked.result() == 77
    assert not process.exited.done()


async def test_the_end_of_a_process_is_told_to_whoever_asked_for_it(desk: Desk) -> None:
    first, second = desk.forker.fork("a", 0, []), desk.forker.fork("b", 1, [])
    one, two = desk.asked()
    assert isinstance(one, frames.Fork)
    assert isinstance(two, frames.Fork)
    desk.forker.on_forked(frames.Forked(two.token, 20))
    desk.forker.on_forked(frames.Forked(one.token, 10))
    desk.forker.on_exited(frames.Exited(20, -9))
    assert await second.exited == -9
    assert not first.exited.done()
    desk.forker.on_exited(frames.Exited(10, 0))
    assert await first.exited == 0


async def test_a_process_that_could_not_be_made_has_ended(desk: Desk) -> None:
    process = desk.forker.fork("a", 0, [])
    (asked,) = desk.asked()
    assert isinstance(asked, frames.Fork)
    desk.forker.on_forked(frames.Forked(asked.token, 0, "no more processes"))
    assert await process.exited == 1
    desk.forker.kill(process)
    assert desk.asked() == []


async def test_a_process_is_ended_on_demand(desk: Desk) -> None:
    process = desk.forker.fork("a", 0, [])
    desk.asked()
    desk.forker.on_forked(frames.Forked(1, 10))
    desk.forker.kill(process)
    assert desk.asked() == [frames.Kill(10)]


async def test_a_process_that_nobody_wants_any_more_is_ended_as_soon_as_it_exists(desk: Desk) -> None:
    process = desk.forker.fork("a", 0, [])
    desk.asked()
    desk.forker.kill(process)
    assert desk.asked() == []
    desk.forker.on_forked(frames.Forked(1, 10))
    assert desk.asked() == [frames.Kill(10)]
    desk.forker.on_exited(frames.Exited(10, -9))
    assert await process.exited == -9


async def test_a_process_that_has_ended_is_not_ended_again(desk: Desk) -> None:
    """Its number may be another's by now."""
    process = desk.forker.fork("a", 0, [])
    desk.asked()
    desk.forker.on_forked(frames.Forked(1, 10))
    desk.forker.on_exited(frames.Exited(10, 0))
    desk.forker.kill(process)
    assert desk.asked() == []


async def test_news_of_strangers_is_nothing_to_us(desk: Desk) -> None:
    desk.forker.on_forked(frames.Forked(99, 10))
    desk.forker.on_exited(frames.Exited(10, 0))
    assert desk.asked() == []


async def test_one_that_the_kernel_ended_for_its_memory_is_known(desk: Desk) -> None:
    process = desk.forker.fork("hello", 0, [])
    desk.forker.on_forked(frames.Forked(1, 77))
    desk.forker.on_exited(frames.Exited(77, -9, out_of_memory=True))
    assert process.out_of_memory
    assert process.exited.result() == -9


async def test_one_that_cannot_be_made_has_no_number(desk: Desk) -> None:
    process = desk.forker.fork("hello", 0, [])
    desk.forker.on_forked(frames.Forked(1, 0, "no"))
    assert process.forked.result() == 0
