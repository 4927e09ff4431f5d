"""However the bytes of a stream come, a client gets the same objects."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import ai
from tests.ai.llm.recorded import STREAMS, Recorded
from tests.ai.upstream import END, Call, framed, serve

streams = pytest.mark.parametrize("stream", STREAMS, ids=[stream.name for stream in STREAMS])


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size


def check(stream: Recorded, pieces: Iterable[bytes]) -> None:
    wire = stream.wire()
    chunks = [chunk for piece in pieces for chunk in wire.feed(piece)]
    chunks += wire.end()
    assert chunks == stream.objects
    assert "".join(map(wire.text, chunks)) == stream.text
    assert wire.finished


@streams
def test_cut_in_two_at_every_byte(stream: Recorded) -> None:
    for at in range(len(stream.data) + 1):
        check(stream, [stream.data[:at], stream.data[at:]])


@streams
def test_byte_by_byte(stream: Recorded) -> None:
    check(stream, cut(stream.data, cycle([1])))


@streams
@given(sizes=st.lists(st.integers(1, 7), min_size=1))
def test_in_pieces_of_one_to_seven_bytes(stream: Recorded, sizes: list[int]) -> None:
    check(stream, cut(stream.data, cycle(sizes)))


@streams
def test_ended_at_every_byte_it_gives_whole_objects_alone_and_is_incomplete_before_its_closing_event(
    stream: Recorded,
) -> None:
    for at in range(len(stream.data) + 1):
        wire = stream.wire()
        chunks = list(wire.feed(stream.data[:at]))
        if at < stream.closing:
            with pytest.raises(ai.IncompleteStream):
                list(wire.end())
        else:
            chunks += wire.end()
        assert chunks == stream.objects[: len(chunks)]


@streams
@pytest.mark.anyio
async def test_over_a_connection_that_is_cut_amid_framing_and_characters(stream: Recorded) -> None:
    chance = random.Random(6)
    body = framed(*cut(stream.data, iter(lambda: chance.randint(1, 7), 0))) + END

    async def drips(call: Call) -> None:
        call.head(content_type=stream.content_type)
        await call.drip(body, iter(lambda: chance.randint(1, 7), 0))

    async with serve(drips) as upstream:
        session = ai.Session("m", host=upstream.url, mode=stream.mode)
        chunks = [chunk async for chunk in await session.run("hi", stream=True)]
        assert chunks == stream.objects
        assert upstream.connections == 1
