"""What can go wrong between us and an LLM server, and what is said then."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from runtime import ai
from tests.ai.upstream import Call, completed, for_ever, generated, ndjson, serve, sse

pytestmark = pytest.mark.anyio


async def drained(stream: ai.Stream) -> list[ai.Chunk]:
    return [chunk async for chunk in stream]


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


@pytest.mark.parametrize("end", [Call.close, Call.die])
@pytest.mark.parametrize("whole", [False, True], ids=["amid it", "before its last event"])
async def test_a_stream_shorter_than_its_length_is_incomplete(
    end: Callable[[Call], None], whole: bool
) -> None:
    async def lies(call: Call) -> None:
        body = ndjson(*generated("a", done=False))
        call.head(length=len(body) + 1)
        call.write(body if whole else body[:-9])
        await asyncio.sleep(0.01)  # so that what was written is not lost with the connection
        end(call)

    async with serve(lies) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True)
        with pytest.raises(ai.IncompleteStream):
            await drained(stream)


async def test_a_length_longer_than_a_finished_stream_holds_nobody_up() -> None:
    async def lies(call: Call) -> None:
        body = ndjson(*generated("a"))
        call.head(length=len(body) + 1)
        call.write(body)
        await for_ever(call)

    async with serve(lies) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True, timeout=30)
        assert await drained(stream) == generated("a")
        await upstream.gone.wait()


async def test_an_answer_longer_than_its_length_is_cut_and_spoils_no_later_one() -> None:
    async def lies(call: Call) -> None:
        if call.request.json()["prompt"] == "lie":
            call.head(200, "application/json", length=7)
            call.write(b'{"a":1}HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"wrong": 1}  ')
        else:
            call.answer(200, b'{"right":1}')

    async with serve(lies) as upstream:
        session = ai.Session("m", host=upstream.url)
        assert await session.run("lie") == {"a": 1}
        assert await session.run("truth") == {"right": 1}
        assert upstream.connections == 2


async def test_kept_connections_that_the_server_closes_are_not_used_again() -> None:
    async def answers(call: Call) -> None:
        call.answer(200, b"{}")

    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url)
        await session.run("one")
        await upstream.hang_up()
        await session.run("two")
        assert upstream.connections == 2


async def test_a_server_that_hangs_up_without_an_answer_is_unreachable() -> None:
    async def hangs_up(call: Call) -> None:
        call.close()

    async with serve(hangs_up) as upstream:
        with pytest.raises(ai.HostUnreachable, match="without an answer"):
            await ai.Session("m", host=upstream.url).run("hi")
        assert len(upstream.requests) == 1  # it may be at work on it: nothing is sent twice


async def test_nobody_there_is_said_with_the_address_the_reason_and_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AI_INFERENCE_API_HOST", f"http://user:hunter2@127.0.0.1:{port}/base")
    with pytest.raises(ai.HostUnreachable) as raised:
        await ai.Session("m").run("hi", timeout=0.1)
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
            await ai.Session("m", host="http://localhost:9").run("hi", timeout=0.1)


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
