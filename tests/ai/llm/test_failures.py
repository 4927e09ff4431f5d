"""What can go wrong between us and an LLM server, and what is said then."""

from __future__ import annotations

import asyncio
import socket

import pytest

from runtime import ai
from tests.ai.upstream import Call, completed, for_ever, generated, ndjson, serve, sse

pytestmark = pytest.mark.anyio


async def drained(stream: ai.Stream) -> list[ai.Chunk]:
    return [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_status_carries_what_the_server_said(stream: bool) -> None:
    async def fails(call: Call) -> None:
        call.answer(404, b'{"error":"model \'m\' not found"}')

    async with serve(fails) as upstream:
        with pytest.raises(ai.UpstreamError, match=r"status 404: .*model 'm' not found") as raised:
            await ai.Session("m", host=upstream.url).run("hi", stream=stream)
        assert (raised.value.status, raised.value.body) == (404, '{"error":"model \'m\' not found"}')


async def test_an_error_without_a_body_says_the_reason() -> None:
    async def fails(call: Call) -> None:
        call.answer(307, b"", Location="http://elsewhere/")

    async with serve(fails) as upstream:
        with pytest.raises(ai.UpstreamError, match="status 307: Said So"):
            await ai.Session("m", host=upstream.url).run("hi")
        assert len(upstream.requests) == 1


async def test_no_error_shows_the_key_or_is_long(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(call: Call) -> None:
        call.answer(401, b"x" * 2040 + call.request.headers["authorization"].encode() + b"y" * 100_000)

    caplog.set_level("DEBUG")
    async with serve(fails) as upstream:
        host = upstream.url.replace("//", "//user:hunter2@")
        with pytest.raises(ai.UpstreamError) as raised:
            await ai.Session("m", host=host, api_key="sk-secret").run("hi")
    assert len(raised.value.body) <= 2049
    for text in (str(raised.value), raised.value.body, caplog.text):
        assert "sk-" not in text
        assert "hunter2" not in text


async def test_an_error_inside_a_stream_does_not_show_the_key() -> None:
    async def fails(call: Call) -> None:
        call.head()
        call.piece(ndjson(*generated("a", done=False)) + ndjson({"error": "bad sk-secret"}))
        await for_ever(call)

    async with serve(fails) as upstream:
        stream = await ai.Session("m", host=upstream.url, api_key="sk-secret").run("hi", stream=True)
        assert (await anext(stream)).response == "a"
        with pytest.raises(ai.UpstreamError) as raised:
            await anext(stream)
        assert (raised.value.status, raised.value.body) == (0, "bad ***")
        await upstream.gone.wait()


@pytest.mark.parametrize("body", [b'{"error":"out of memory"}', b'{"error":{"message":"out of memory"}}'])
async def test_an_error_with_a_good_status_is_an_error(body: bytes) -> None:
    async def fails(call: Call) -> None:
        call.answer(200, body)

    async with serve(fails) as upstream:
        with pytest.raises(ai.UpstreamError, match="out of memory"):
            await ai.Session("m", host=upstream.url).run("hi")


@pytest.mark.parametrize("body", [b"<html>a proxy's page</html>", b"[1]", b""])
async def test_an_answer_that_is_no_json_object_is_shown(body: bytes) -> None:
    async def fails(call: Call) -> None:
        call.answer(200, body)

    async with serve(fails) as upstream:
        with pytest.raises(ai.UpstreamError, match="no JSON object") as raised:
            await ai.Session("m", host=upstream.url).run("hi")
        assert body.decode() in str(raised.value)


async def test_a_stream_that_ends_early_is_incomplete_after_its_last_object() -> None:
    async def ends(call: Call) -> None:
        call.head()
        call.piece(ndjson(*generated("a", "b", done=False)))
        call.end()

    async with serve(ends) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True)
        assert [await anext(stream), await anext(stream)] == generated("a", "b", done=False)
        with pytest.raises(ai.IncompleteStream, match="done"):
            await anext(stream)


async def test_a_server_that_dies_amid_a_stream_leaves_it_incomplete() -> None:
    async def dies(call: Call) -> None:
        call.head()
        call.piece(ndjson(*generated("a", done=False)))
        call.close()

    async with serve(dies) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True)
        with pytest.raises(ai.IncompleteStream):
            await drained(stream)


async def test_a_server_that_dies_amid_an_object_leaves_it_incomplete() -> None:
    async def dies(call: Call) -> None:
        call.head(200, "application/json")
        call.piece(b'{"response": "a')
        call.close()

    async with serve(dies) as upstream:
        with pytest.raises(ai.IncompleteStream, match="not the whole"):
            await ai.Session("m", host=upstream.url).run("hi")


async def test_a_completion_that_just_stops_is_incomplete() -> None:
    async def stops(call: Call) -> None:
        call.head(content_type="text/event-stream")
        call.piece(sse(*completed("a", reason=None), done=False))
        call.end()

    async with serve(stops) as upstream:
        session = ai.Session("m", host=upstream.url, mode="openaicompatible")
        with pytest.raises(ai.IncompleteStream):
            await drained(await session.run("hi", stream=True))


async def test_a_server_that_hangs_up_without_an_answer_is_unreachable() -> None:
    async def hangs_up(call: Call) -> None:
        call.close()

    async with serve(hangs_up) as upstream:
        with pytest.raises(ai.HostUnreachable, match="without an answer"):
            await ai.Session("m", host=upstream.url).run("hi")


async def test_nobody_there_is_said_with_the_address_the_reason_and_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AI_INFERENCE_API_HOST", f"http://user:hunter2@127.0.0.1:{port}/base")
    with pytest.raises(ai.HostUnreachable) as raised:
        await ai.Session("m").run("hi")
    for part in (
        f"http://127.0.0.1:{port}/base",
        "connection refused",
        "AI_INFERENCE_API_HOST",
        "supabase/functions/.env",
        "functions models pull NAME",
    ):
        assert part in str(raised.value)
    assert "hunter2" not in str(raised.value)


async def test_an_address_that_only_the_http_client_refuses_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AI_INFERENCE_API_HOST", "http://256.1.1.1")
    with pytest.raises(ai.HostNotConfigured, match=r"AI_INFERENCE_API_HOST is .http://256\.1\.1\.1."):
        await ai.Session("m").run("hi")


async def test_each_attempt_says_its_own_reason() -> None:
    try:
        raise OSError(2, "another matter")
    except OSError:
        with pytest.raises(ai.HostUnreachable, match="connection refused"):
            await ai.Session("m", host="http://localhost:9").run("hi")


async def test_headers_that_never_come_are_a_timeout_in_time() -> None:
    async with serve(for_ever) as upstream:
        session = ai.Session("m", host=upstream.url)
        with pytest.raises(ai.InferenceTimeout, match=r"did not finish within 0\.2 s \(timeout\.total\)"):
            await session.run("hi", timeout=0.2)
        await upstream.gone.wait()
        with pytest.raises(ai.InferenceTimeout, match=r"nothing within 0\.1 s \(timeout\.first_token\)"):
            await session.run("hi", stream=True, timeout=ai.Timeout(first_token=0.1))
        await upstream.gone.wait()


@pytest.mark.parametrize(
    ("timeout", "limit"),
    [
        (0.2, r"timeout\.total"),
        (ai.Timeout(idle=0.1), r"timeout\.idle"),
        (ai.Timeout(first_token=0.1, idle=0.1, total=0.2), r"timeout\.idle"),
    ],
)
async def test_a_stream_that_stalls_is_a_timeout_and_closes_the_connection(
    timeout: ai.Timeout, limit: str
) -> None:
    async def stalls(call: Call) -> None:
        call.head()
        call.piece(ndjson(*generated("a", done=False)))
        await for_ever(call)

    async with serve(stalls) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True, timeout=timeout)
        assert (await anext(stream)).response == "a"
        with pytest.raises(ai.InferenceTimeout, match=limit):
            await anext(stream)
        await upstream.gone.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_head_without_a_first_token_is_a_timeout() -> None:
    async def stalls(call: Call) -> None:
        call.head()
        await for_ever(call)

    async with serve(stalls) as upstream:
        session = ai.Session("m", host=upstream.url)
        stream = await session.run("hi", stream=True, timeout=ai.Timeout(first_token=0.1))
        with pytest.raises(ai.InferenceTimeout, match="first_token"):
            await anext(stream)


async def test_a_body_that_stalls_is_a_timeout() -> None:
    async def stalls(call: Call) -> None:
        call.head(200, "application/json")
        call.piece(b'{"response": ')
        await for_ever(call)

    async with serve(stalls) as upstream:
        with pytest.raises(ai.InferenceTimeout, match=r"timeout\.total"):
            await ai.Session("m", host=upstream.url).run("hi", timeout=0.2)
        await upstream.gone.wait()


async def test_an_error_body_that_stalls_is_a_timeout() -> None:
    async def stalls(call: Call) -> None:
        call.head(500)
        call.piece(b"Internal ")
        await for_ever(call)

    async with serve(stalls) as upstream:
        with pytest.raises(ai.InferenceTimeout):
            await ai.Session("m", host=upstream.url).run("hi", timeout=0.2)
        await upstream.gone.wait()


async def test_a_stream_that_keeps_talking_still_ends_at_the_total() -> None:
    async def talks(call: Call) -> None:
        call.head()
        while not call.gone.is_set():
            call.piece(ndjson(*generated("a", done=False)))
            await asyncio.sleep(0.01)

    async with serve(talks) as upstream:
        stream = await ai.Session("m", host=upstream.url).run(
            "hi", stream=True, timeout=ai.Timeout(idle=5, total=0.2)
        )
        with pytest.raises(ai.InferenceTimeout, match="total"):
            await drained(stream)


async def test_a_connection_that_is_not_taken_is_a_timeout_of_its_own() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.socket() as first, socket.socket() as second:
            for fills in (first, second):
                fills.setblocking(False)
                fills.connect_ex(address)
            session = ai.Session("m", host=f"http://127.0.0.1:{address[1]}")
            with pytest.raises(
                ai.InferenceTimeout, match=r"took no connection within 0\.2 s \(timeout\.connect\)"
            ):
                await session.run("hi", timeout=ai.Timeout(connect=0.2))


async def test_a_server_that_does_not_end_after_its_last_object_holds_nobody_up() -> None:
    async def lingers(call: Call) -> None:
        call.head()
        call.piece(ndjson(*generated("a")))
        await for_ever(call)

    async with serve(lingers) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True, timeout=30)
        assert await drained(stream) == generated("a")
        await upstream.gone.wait()
