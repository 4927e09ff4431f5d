"""What the client of Supabase's Edge Runtime gets wrong, A1 to A15 by number: ours must not."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from runtime import ai
from tests.ai.upstream import (
    SONG,
    Call,
    Script,
    completed,
    for_ever,
    framed,
    generated,
    ndjson,
    serve,
    sse,
)

pytestmark = pytest.mark.anyio

OPENAI = "openaicompatible"
both = pytest.mark.parametrize("mode", ["ollama", OPENAI])
either_way = pytest.mark.parametrize("stream", [False, True])


def streams(body: bytes, then: Callable[[Call], Any] | None = None) -> Script:
    """Answer with a stream; `then` instead of its end."""

    async def script(call: Call) -> None:
        call.head(content_type="text/event-stream" if b"data:" in body else "application/x-ndjson")
        call.piece(body)
        if then is None:
            call.end()
        else:
            await then(call)

    return script


def began(mode: str) -> bytes:
    """A stream's first object."""
    if mode == OPENAI:
        return sse(*completed("a", reason=None), done=False)
    return ndjson(*generated("a", done=False))


async def chunks_of(script: Script, mode: str = OPENAI, prompt: Any = "hi", **fields: Any) -> list[ai.Chunk]:
    async with serve(script) as upstream:
        stream = await ai.Session("m", host=upstream.url, mode=mode).run(prompt, stream=True, **fields)
        return [chunk async for chunk in stream]


# A1: no limit and no cancellation reaches the request itself


@both
@either_way
async def test_a01_a_timeout_ends_the_wait_for_a_head_and_the_connection(mode: str, stream: bool) -> None:
    async with serve(for_ever) as upstream:
        session = ai.Session("m", host=upstream.url, mode=mode)
        with pytest.raises(ai.InferenceTimeout, match=r"did not finish within 0\.2 s \(timeout\.total\)"):
            await session.run("hi", stream=stream, timeout=0.2)
        await upstream.gone.wait()
        with pytest.raises(ai.InferenceTimeout, match=r"nothing within 0\.1 s \(timeout\.first_token\)"):
            await session.run("hi", stream=stream, timeout=ai.Timeout(first_token=0.1))
        await upstream.gone.wait()


@either_way
async def test_a01_a_cancelled_handler_that_waits_for_a_head_closes_the_connection(stream: bool) -> None:
    arrived = asyncio.Event()

    async def silent(call: Call) -> None:
        arrived.set()
        await for_ever(call)

    async with serve(silent) as upstream:
        handler = asyncio.create_task(ai.Session("m", host=upstream.url).run("hi", stream=stream))
        await arrived.wait()
        handler.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handler
        await upstream.gone.wait()


# A2: a stream that stalls hangs past its limit


@both
@pytest.mark.parametrize(
    ("timeout", "limit"),
    [
        (0.2, r"timeout\.total"),
        (ai.Timeout(idle=0.1), r"timeout\.idle"),
        (ai.Timeout(first_token=0.1, idle=0.1, total=0.2), r"timeout\.idle"),
    ],
)
async def test_a02_a_stream_that_stalls_is_a_timeout_and_closes_the_connection(
    mode: str, timeout: ai.Timeout, limit: str
) -> None:
    async with serve(streams(began(mode), for_ever)) as upstream:
        stream = await ai.Session("m", host=upstream.url, mode=mode).run("hi", stream=True, timeout=timeout)
        await anext(stream)
        with pytest.raises(ai.InferenceTimeout, match=limit):
            await anext(stream)
        await upstream.gone.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a02_a_head_without_a_first_token_is_a_timeout() -> None:
    async def stalls(call: Call) -> None:
        call.head()
        await for_ever(call)

    async with serve(stalls) as upstream:
        session = ai.Session("m", host=upstream.url)
        stream = await session.run("hi", stream=True, timeout=ai.Timeout(first_token=0.1))
        with pytest.raises(ai.InferenceTimeout, match="first_token"):
            await anext(stream)
        await upstream.gone.wait()


# A3: a character cut in two becomes rubbish


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize(
    ("mode", "whole", "objects"),
    [
        ("ollama", ndjson(*generated(*SONG)), generated(*SONG)),
        (OPENAI, sse(*completed(*SONG)), completed(*SONG)),
    ],
)
async def test_a03_characters_that_are_cut_stay_whole(
    mode: str, whole: bytes, objects: list[dict[str, Any]], size: int
) -> None:
    async def pieces(call: Call) -> None:
        call.head()
        call.pieces(whole[start : start + size] for start in range(0, len(whole), size))
        call.end()

    assert await chunks_of(pieces, mode) == objects


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_a03_characters_that_are_cut_stay_whole_in_an_answer_of_one_object(size: int) -> None:
    whole = ndjson({"response": "".join(SONG), "done": True})

    async def pieces(call: Call) -> None:
        call.head(200, "application/json")
        call.pieces(whole[start : start + size] for start in range(0, len(whole), size))
        call.end()

    async with serve(pieces) as upstream:
        assert (await ai.Session("m", host=upstream.url).run("hi")).response == "".join(SONG)


# A4: a body with line breaks is a syntax error


@both
async def test_a04_a_pretty_printed_answer_is_read_whole(mode: str) -> None:
    async def pretty(call: Call) -> None:
        call.head(200, "application/json")
        call.pieces([b'{\n  "response":', b' "h\xc3', b'\xb6re",\n\n', b'  "done": true\r\n}\n\n'])
        call.end()

    async with serve(pretty) as upstream:
        answer = await ai.Session("m", host=upstream.url, mode=mode).run("hi")
        assert answer == {"response": "höre", "done": True}


# A5: an end for another reason than "stop" is an error

REASONS = ["stop", "length", "tool_calls", "content_filter", "function_call", "eos"]


@pytest.mark.parametrize("reason", REASONS)
async def test_a05_every_finish_reason_is_delivered(reason: str) -> None:
    assert await chunks_of(streams(sse(*completed("a", reason=reason)))) == completed("a", reason=reason)


@pytest.mark.parametrize("reason", REASONS)
async def test_a05_every_finish_reason_is_delivered_in_an_answer_of_one_object(reason: str) -> None:
    whole = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": reason}]}

    async def answers(call: Call) -> None:
        call.answer(200, ndjson(whole))

    async with serve(answers) as upstream:
        assert await ai.Session("m", host=upstream.url, mode=OPENAI).run("hi") == whole


@pytest.mark.parametrize("reason", ["stop", "length", "load", "unload"])
async def test_a05_every_done_reason_is_delivered(reason: str) -> None:
    objects = [*generated("a", done=False), {"response": "", "done": True, "done_reason": reason}]
    assert await chunks_of(streams(ndjson(*objects)), "ollama") == objects


async def test_a05_calls_of_tools_are_delivered() -> None:
    objects = [
        {"choices": [{"index": 0, "delta": {"content": None, "tool_calls": [call]}, "finish_reason": None}]}
        for call in (
            {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"a":'}},
            {"index": 0, "function": {"arguments": "1}"}},
        )
    ]
    objects += completed(reason="tool_calls")
    assert await chunks_of(streams(sse(*objects))) == objects


# A6: the usage after the finish_reason is lost


@pytest.mark.parametrize("done", [True, False], ids=["with [DONE]", "without"])
async def test_a06_the_usage_after_the_finish_reason_is_delivered(done: bool) -> None:
    objects = [*completed("a"), {"id": "c", "choices": [], "usage": {"total_tokens": 3}}]

    async def slowly(call: Call) -> None:
        call.head(content_type="text/event-stream")
        for value in objects:
            call.piece(sse(value, done=False))
            await asyncio.sleep(0.01)
        if done:
            call.piece(b"data: [DONE]\n\n")
        call.end()

    assert await chunks_of(slowly, stream_options={"include_usage": True}) == objects


# A7: a chunk without choices is a type error


@pytest.mark.parametrize("empty", [{"choices": []}, {"choices": None}, {}, {"choices": [{}]}])
async def test_a07_a_chunk_without_choices_is_delivered(empty: dict[str, Any]) -> None:
    objects = [empty, *completed("a"), empty]
    assert await chunks_of(streams(sse(*objects))) == objects


# A8: "[DONE]" is taken for JSON


async def test_a08_done_ends_a_stream_that_has_no_finish_reason() -> None:
    objects = completed("a", reason=None)
    assert await chunks_of(streams(sse(*objects))) == objects


async def test_a08_done_ends_a_stream_whose_connection_stays_open() -> None:
    assert await chunks_of(streams(sse(*completed("a")), for_ever), timeout=30) == completed("a")


# A9: what the server said of its error is dropped


@both
@either_way
async def test_a09_an_error_status_carries_what_the_server_said(mode: str, stream: bool) -> None:
    async def fails(call: Call) -> None:
        call.answer(404, b'{"error":"model \'m\' not found"}')

    async with serve(fails) as upstream:
        with pytest.raises(ai.UpstreamError, match=r"status 404: .*model 'm' not found") as raised:
            await ai.Session("m", host=upstream.url, mode=mode).run("hi", stream=stream)
        assert (raised.value.status, raised.value.body) == (404, '{"error":"model \'m\' not found"}')


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("ollama", b'{"error":"out of memory"}\n'),
        (OPENAI, b'data: {"error":{"message":"out of memory","code":500}}\n\n'),
        (OPENAI, b'event: error\ndata: {"error":{"message":"out of memory"}}\n\n'),
        (OPENAI, b"event: error\ndata: out of memory\n\n"),
    ],
)
async def test_a09_an_error_inside_a_stream_carries_what_the_server_said(mode: str, said: bytes) -> None:
    async with serve(streams(began(mode) + said, for_ever)) as upstream:
        stream = await ai.Session("m", host=upstream.url, mode=mode).run("hi", stream=True)
        await anext(stream)
        with pytest.raises(ai.UpstreamError) as raised:
            await anext(stream)
        assert (raised.value.status, raised.value.body) == (0, "out of memory")
        await upstream.gone.wait()


# A10: no key can be sent


@both
async def test_a10_a_key_is_sent_as_a_bearer_token(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(streams(sse(*completed("a")) + ndjson(*generated("a")))) as upstream:
        await ai.Session("m", host=upstream.url, api_key="sk-given", mode=mode).run("hi", stream=True)
        monkeypatch.setenv("AI_INFERENCE_API_HOST", upstream.url)
        monkeypatch.setenv("AI_INFERENCE_API_KEY", "sk-environment")
        await ai.Session("m", mode=mode).run("hi", stream=True)
        sent = [request.headers["authorization"] for request in upstream.requests]
        assert sent == ["Bearer sk-given", "Bearer sk-environment"]


# A11: a host's base path is dropped


@pytest.mark.parametrize(
    ("mode", "base", "path"),
    [
        (OPENAI, "/openai", "/openai/v1/chat/completions"),
        (OPENAI, "/a/b/", "/a/b/v1/chat/completions"),
        (OPENAI, "/v1", "/v1/chat/completions"),
        (OPENAI, "/openai/v1/", "/openai/v1/chat/completions"),
        ("ollama", "/ollama", "/ollama/api/generate"),
    ],
)
async def test_a11_a_base_path_is_kept_and_a_version_in_it_not_doubled(
    mode: str, base: str, path: str
) -> None:
    async def answers(call: Call) -> None:
        call.answer(200, b"{}")

    async with serve(answers) as upstream:
        await ai.Session("m", host=upstream.url + base, mode=mode).run("hi")
        assert upstream.requests[0].path == path


# A12: "stream" in the prompt decides how the answer is read


@both
@pytest.mark.parametrize("wanted", [True, False])
async def test_a12_the_stream_option_wins_over_a_stream_in_the_body(mode: str, wanted: bool) -> None:
    async def answers(call: Call) -> None:
        if not call.request.json()["stream"]:
            call.answer(200, b'{"whole": true}')
        elif mode == OPENAI:
            await streams(sse(*completed("a")))(call)
        else:
            await streams(ndjson(*generated("a")))(call)

    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url, mode=mode)
        answer = await session.run({"messages": [], "stream": not wanted}, stream=wanted)
        assert upstream.requests[0].json()["stream"] is wanted
        if wanted:
            assert len([chunk async for chunk in answer]) == 2
        else:
            assert answer == {"whole": True}


# A13: an abort amid a stream comes out as another error


async def until_reading(task: asyncio.Future[Any]) -> None:
    for _ in range(20):  # into the wait for the next piece
        await asyncio.sleep(0)
    assert not task.done()


@both
async def test_a13_a_cancelled_read_is_a_cancellation_with_its_reason(mode: str) -> None:
    async with serve(streams(began(mode), for_ever)) as upstream:
        stream = await ai.Session("m", host=upstream.url, mode=mode).run("hi", stream=True)
        await anext(stream)
        reading = asyncio.ensure_future(anext(stream))
        await until_reading(reading)
        reading.cancel("the user left")
        with pytest.raises(asyncio.CancelledError, match="the user left"):
            await reading
        await upstream.gone.wait()


@pytest.mark.parametrize("form", ["sse", "text", "raw", "objects"])
async def test_a13_a_limit_around_a_stream_is_that_limits_error(form: str) -> None:
    async with serve(streams(began("ollama"), for_ever)) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True)
        pieces = stream if form == "objects" else getattr(stream, form)().body()
        with pytest.raises(TimeoutError) as raised:
            await asyncio.wait_for(_drained(pieces), 0.1)
        assert not isinstance(raised.value, ai.AIError)
        await upstream.gone.wait()


@pytest.mark.parametrize("form", ["sse", "text", "raw", "objects"])
async def test_a13_a_stream_that_another_task_closes_ends_without_error_and_without_done(form: str) -> None:
    async with serve(streams(began("ollama"), for_ever)) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True)
        pieces: AsyncIterator[Any] = stream if form == "objects" else getattr(stream, form)().body()
        reading = asyncio.ensure_future(_drained(pieces))
        await until_reading(reading)
        await stream.aclose()
        assert len(await reading) == 1
        await upstream.gone.wait()


async def _drained(pieces: AsyncIterator[Any]) -> list[Any]:
    return [piece async for piece in pieces]


# A14: most of the APIs cannot be said

IMAGE = "iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("mode", "prompt", "path"),
    [
        (
            "ollama",
            {"prompt": "hi", "system": "s", "template": "t", "suffix": "x", "images": [IMAGE], "raw": True},
            "/api/generate",
        ),
        (
            "ollama",
            {"messages": [{"role": "user", "content": "hi", "images": [IMAGE]}], "tools": [TOOL]},
            "/api/chat",
        ),
        (
            OPENAI,
            {"messages": [{"role": "user", "content": "hi"}], "tools": [TOOL], "tool_choice": "auto", "n": 2},
            "/v1/chat/completions",
        ),
    ],
)
async def test_a14_a_mapping_is_the_apis_own_body(mode: str, prompt: dict[str, Any], path: str) -> None:
    fields: dict[str, Any] = {
        "options": {"seed": 1},
        "format": {"type": "object"},
        "keep_alive": "5m",
        "think": "low",
    }

    async def answers(call: Call) -> None:
        call.answer(200, b"{}")

    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url, mode=mode)
        await session.run(prompt)
        await session.run({**prompt, "model": "another"}, **fields)
        plain, full = upstream.requests
        assert (plain.path, full.path) == (path, path)
        assert plain.json() == {"model": "m", **prompt, "stream": False}
        assert full.json() == {**prompt, **fields, "model": "another", "stream": False}


@pytest.mark.parametrize(
    ("mode", "path", "answer"),
    [
        ("ollama", "/api/embed", b'{"embeddings": [[0, 1], [1, 0]]}'),
        (
            OPENAI,
            "/v1/embeddings",
            b'{"data": [{"index": 1, "embedding": [1, 0]}, {"index": 0, "embedding": [0, 1]}]}',
        ),
    ],
)
async def test_a14_embeddings_can_be_had(mode: str, path: str, answer: bytes) -> None:
    async def answers(call: Call) -> None:
        call.answer(200, answer)

    async with serve(answers) as upstream:
        rows = await ai.Session("m", host=upstream.url, mode=mode).embed(["one", "two"])
        assert rows.tolist() == [[0, 1], [1, 0]]
        (request,) = upstream.requests
        assert (request.path, request.json()["input"]) == (path, ["one", "two"])


# A15: after an error the connection stays open, and the server keeps generating


@both
async def test_a15_what_is_no_json_is_an_error_that_closes_the_connection(mode: str) -> None:
    bad = b"data: <html>\n\n" if mode == OPENAI else b"<html>\n"
    async with serve(streams(began(mode) + bad, for_ever)) as upstream:
        stream = await ai.Session("m", host=upstream.url, mode=mode).run("hi", stream=True)
        await anext(stream)
        with pytest.raises(ai.UpstreamError, match="no JSON object: <html>"):
            await anext(stream)
        await upstream.gone.wait()


@both
async def test_a15_an_error_of_the_handlers_closes_the_connection(mode: str) -> None:
    async def handler(url: str) -> None:
        async for chunk in await ai.Session("m", host=url, mode=mode).run("hi", stream=True, timeout=None):
            raise LookupError(chunk)

    async with serve(streams(began(mode), for_ever)) as upstream:
        with pytest.raises(LookupError):
            await asyncio.create_task(handler(upstream.url))
        gc.collect()
        await upstream.gone.wait()


async def test_a15_a_broken_stream_leaves_the_other_connections_alone() -> None:
    async def answers(call: Call) -> None:
        if call.request.json()["prompt"] == "bad":
            call.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed(b"<html>\n"))
            return
        await streams(ndjson(*generated("a")))(call)

    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url)
        good = [await session.run("good", stream=True) for _ in range(2)]
        bad = await session.run("bad", stream=True)
        with pytest.raises(ai.UpstreamError):
            await anext(bad)
        for stream in good:
            assert [chunk async for chunk in stream] == generated("a")
        await session.run("good", stream=True)
        assert upstream.connections == 3
