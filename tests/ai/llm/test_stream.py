"""How a stream is sent, and how it ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime import ai
from runtime.ai.llm import stream as streams
from runtime.ai.llm.chunk import compact
from tests.ai.upstream import SONG, Call, Script, Upstream, completed, for_ever, generated, ndjson, serve, sse

pytestmark = pytest.mark.anyio


def says(*pieces: bytes, content_type: str = "application/x-ndjson", then: Script | None = None) -> Script:
    async def script(call: Call) -> None:
        call.head(content_type=content_type)
        call.pieces(pieces)
        if then is None:
            call.end()
        else:
            await then(call)

    return script


SINGS = says(ndjson(*generated(*SONG)))
BREAKS = says(ndjson(*generated("a", done=False)), ndjson({"error": "out of memory"}))
STALLS = says(ndjson(*generated("a", done=False)), then=for_ever)


@asynccontextmanager
async def opened(
    script: Script, mode: str = "ollama", **options: Any
) -> AsyncIterator[tuple[ai.Stream, Upstream]]:
    async with serve(script) as upstream:
        stream = await ai.Session("m", host=upstream.url, mode=mode).run("hi", stream=True, **options)
        yield stream, upstream


async def collect(stream: ai.Stream, pieces: list[bytes]) -> None:
    async for piece in stream.body():
        pieces.append(piece)


async def sent(stream: ai.Stream) -> bytes:
    return b"".join([piece async for piece in stream.body()])


@pytest.mark.parametrize("chosen", [False, True])
async def test_it_is_sent_as_events_of_the_providers_objects_and_done(chosen: bool) -> None:
    async with opened(SINGS) as (stream, _):
        if chosen:
            assert stream.text().sse() is stream
        assert (stream.status, stream.content_type) == (200, "text/event-stream")
        assert ("cache-control", "no-cache") in stream.headers
        assert ("x-accel-buffering", "no") in stream.headers
        events = [b"data: " + compact(value) + b"\n\n" for value in generated(*SONG)]
        assert await sent(stream) == b"".join(events) + b"data: [DONE]\n\n"


async def test_a_completion_is_sent_the_same_way() -> None:
    script = says(sse(*completed(*SONG)), content_type="text/event-stream")
    async with opened(script, "openaicompatible") as (stream, _):
        events = [b"data: " + compact(value) + b"\n\n" for value in completed(*SONG)]
        assert await sent(stream) == b"".join(events) + b"data: [DONE]\n\n"


async def test_each_object_is_an_event_of_its_own_as_it_comes() -> None:
    more = asyncio.Event()

    async def slowly(call: Call) -> None:
        call.head()
        call.piece(ndjson(*generated("a", done=False)))
        await more.wait()
        call.piece(ndjson(*generated("b")))
        call.end()

    async with opened(slowly) as (stream, _):
        body = stream.body()
        assert b'"a"' in await anext(body)
        more.set()
        assert b'"b"' in await anext(body)
        assert [piece async for piece in body][-1] == b"data: [DONE]\n\n"


async def test_an_error_is_sent_as_an_event_and_then_raised_instead_of_done() -> None:
    pieces: list[bytes] = []
    async with opened(BREAKS) as (stream, _):
        with pytest.raises(ai.UpstreamError, match="out of memory"):
            await collect(stream, pieces)
    assert b'"a"' in pieces[0]
    assert pieces[1:] == [
        b'event: error\ndata: {"code":"UPSTREAM_ERROR",'
        b'"message":"The LLM server answered with an error inside the stream: out of memory"}\n\n'
    ]


async def test_a_timeout_is_sent_as_an_event_and_then_raised() -> None:
    pieces: list[bytes] = []
    async with opened(STALLS, timeout=0.2) as (stream, upstream):
        with pytest.raises(ai.InferenceTimeout):
            await collect(stream, pieces)
        await upstream.gone.wait()
    assert pieces[-1].startswith(b'event: error\ndata: {"code":"INFERENCE_TIMEOUT",')


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SILENCE", 0.02)
    more = asyncio.Event()

    async def pauses(call: Call) -> None:
        call.head()
        await more.wait()
        call.piece(ndjson(*generated("a")))
        call.end()

    async with opened(pauses) as (stream, _):
        body = stream.body()
        assert [await anext(body), await anext(body)] == [b": \n\n", b": \n\n"]
        more.set()
        rest = b"".join([piece async for piece in body])
        assert rest.lstrip(b": \n").startswith(b"data: {")
        assert rest.endswith(b"data: [DONE]\n\n")


async def test_text_is_the_text_alone() -> None:
    async with opened(SINGS) as (stream, _):
        assert stream.text() is stream
        assert (stream.status, stream.content_type) == (200, "text/plain; charset=utf-8")
        pieces = [piece async for piece in stream.body()]
        assert pieces == [piece.encode() for piece in SONG]


async def test_text_that_breaks_raises_after_what_came() -> None:
    pieces: list[bytes] = []
    async with opened(BREAKS) as (stream, _):
        with pytest.raises(ai.UpstreamError):
            await collect(stream.text(), pieces)
    assert pieces == [b"a"]


async def test_raw_is_the_servers_bytes_status_and_type() -> None:
    odd = b'{ "response" : "\\u0068" }\r\n\n not json at all'

    async def script(call: Call) -> None:
        call.head(206, "application/x-odd; v=1", Content_Encoding="unknown")
        call.pieces([odd[:7], odd[7:]])
        call.end()

    async with opened(script) as (stream, _):
        assert stream.raw() is stream
        assert (stream.status, stream.content_type) == (206, "application/x-odd; v=1")
        assert ("content-encoding", "unknown") in stream.headers
        assert await sent(stream) == odd


async def test_raw_that_breaks_is_not_taken_for_whole() -> None:
    async def dies(call: Call) -> None:
        call.close()

    async with opened(says(b"half", then=dies)) as (stream, _):
        with pytest.raises(ai.IncompleteStream):
            await sent(stream.raw())


async def test_a_stream_read_halfway_sends_the_rest() -> None:
    async with opened(SINGS) as (stream, _):
        await anext(stream)
        assert b"".join([piece async for piece in stream.text().body()]).decode() == "".join(SONG[1:])


async def closes(stream: ai.Stream) -> None:
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def is_cancelled_reading(stream: ai.Stream) -> None:
    await anext(stream)
    await _cancelled(stream.__anext__())


async def is_cancelled_sending_events(stream: ai.Stream) -> None:
    await _cancelled(sent(stream))


async def is_cancelled_sending_text(stream: ai.Stream) -> None:
    await _cancelled(sent(stream.text()))


async def is_cancelled_sending_bytes(stream: ai.Stream) -> None:
    await _cancelled(sent(stream.raw()))


async def stops_sending(stream: ai.Stream) -> None:
    async for _ in stream.body():
        break
    await stream.aclose()


async def _cancelled(reading: Any) -> None:
    task = asyncio.ensure_future(reading)
    for _ in range(20):  # into the wait for the next piece
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "leave",
    [
        closes,
        is_cancelled_reading,
        is_cancelled_sending_events,
        is_cancelled_sending_text,
        is_cancelled_sending_bytes,
        stops_sending,
    ],
)
async def test_whoever_leaves_closes_the_connection(leave: Callable[[ai.Stream], Awaitable[None]]) -> None:
    async with opened(STALLS, timeout=None) as (stream, upstream):
        await leave(stream)
        await upstream.gone.wait()


@pytest.mark.parametrize(
    "kind", ["never read", "broken out of", "left by an exception", "broken out of sending"]
)
async def test_a_stream_that_nobody_holds_closes_the_connection(kind: str) -> None:
    async def handler(url: str) -> None:
        stream = await ai.Session("m", host=url).run("hi", stream=True, timeout=None)
        if kind == "broken out of":
            async for _ in stream:
                break
        elif kind == "left by an exception":
            async for _ in stream:
                raise ZeroDivisionError
        elif kind == "broken out of sending":
            async for _ in stream.body():
                break

    async with serve(STALLS) as upstream:
        try:
            await asyncio.create_task(handler(upstream.url))
        except ZeroDivisionError:
            assert kind == "left by an exception"
        gc.collect()
        await upstream.gone.wait()
