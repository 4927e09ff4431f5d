from __future__ import annotations

from typing import Any

import pytest

from runtime import ai
from tests.ai.upstream import SONG, Call, completed, generated, ndjson, serve, sse

pytestmark = pytest.mark.anyio

ANSWER = {"model": "m", "response": "".join(SONG), "done": True, "context": [1, 2]}


async def answers(call: Call) -> None:
    if call.request.json()["stream"] is not True:
        call.answer(200, ndjson(ANSWER))
    elif call.request.path.endswith("completions"):
        call.head(content_type="text/event-stream")
        call.piece(sse(*completed(*SONG)))
        call.end()
    else:
        call.head()
        call.piece(ndjson(*generated(*SONG)))
        call.end()


async def test_a_text_is_generated_in_one_object() -> None:
    async with serve(answers) as upstream:
        answer = await ai.Session("m", host=upstream.url).run("hi", options={"seed": 1})
        assert answer == ANSWER
        assert answer.response == "".join(SONG)
        (request,) = upstream.requests
        assert (request.method, request.path) == ("POST", "/api/generate")
        assert request.json() == {"model": "m", "prompt": "hi", "options": {"seed": 1}, "stream": False}
        assert request.headers["content-type"] == "application/json"
        assert "authorization" not in request.headers


async def test_a_stream_is_an_iterator_of_the_providers_objects() -> None:
    async with serve(answers) as upstream:
        stream = await ai.Session("m", host=upstream.url).run("hi", stream=True)
        assert isinstance(stream, ai.Stream)
        chunks = [chunk async for chunk in stream]
        assert chunks == generated(*SONG)
        assert "".join(chunk.response for chunk in chunks) == "".join(SONG)
        assert [chunk async for chunk in stream] == []


async def test_host_key_and_mode_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(answers) as upstream:
        monkeypatch.setenv("AI_INFERENCE_API_HOST", f"{upstream.url}/openai/")
        monkeypatch.setenv("AI_INFERENCE_API_KEY", "sk-secret")
        monkeypatch.setenv("AI_INFERENCE_API_MODE", "openaicompatible")
        stream = await ai.Session("m").run("hi", stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.get("content", "") for chunk in chunks) == "".join(SONG)
        (request,) = upstream.requests
        assert request.path == "/openai/v1/chat/completions"
        assert request.headers["authorization"] == "Bearer sk-secret"
        assert request.json() == {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
        }


async def test_the_mode_of_one_call_may_differ() -> None:
    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url)
        await session.run("hi", mode="openaicompatible")
        assert upstream.requests[0].path == "/v1/chat/completions"
        with pytest.raises(ai.InvalidMode, match="'openai'"):
            await session.run("hi", mode="openai")


@pytest.mark.parametrize("prompt", [None, 7, b"hi", ["hi"]])
async def test_what_is_neither_text_nor_mapping_is_refused(prompt: Any) -> None:
    with pytest.raises(ai.InvalidInput, match=f"prompt is {type(prompt).__name__}.*has no `host`"):
        await ai.Session("m", host="http://127.0.0.1:9").run(prompt)


async def test_a_body_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(ai.InvalidInput, match="JSON cannot say"):
        await ai.Session("m", host="http://127.0.0.1:9").run({"prompt": "hi", "images": [b"\x89PNG"]})


async def test_calls_share_kept_connections() -> None:
    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url)
        await session.run("one")
        assert len([chunk async for chunk in await session.run("two", stream=True)]) == len(SONG) + 1
        await session.run("three")
        assert (len(upstream.requests), upstream.connections) == (3, 1)


async def test_ready_has_ollama_load_the_model_and_asks_no_other() -> None:
    async with serve(answers) as upstream:
        await ai.Session("m", host=upstream.url).ready()
        await ai.Session("m", host=upstream.url, mode="openaicompatible").ready()
        (request,) = upstream.requests
        assert (request.path, request.json()["prompt"]) == ("/api/generate", "")
