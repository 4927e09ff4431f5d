"""The examples, called as a worker calls them."""

from __future__ import annotations

import runpy
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from runtime import HTTPException, Request, ai
from runtime.errors import InvalidJSON
from tests.cli.conftest import REPOSITORY

pytestmark = pytest.mark.anyio


class EchoSession:
    """Answers with what it was asked."""

    def __init__(self, model: str) -> None:
        self.model = model

    async def run(self, prompt: object, **options: object) -> Any:
        return self.tokens(prompt) if options.get("stream") else [self.model, prompt, options]

    async def tokens(self, prompt: object) -> AsyncIterator[dict[str, str]]:
        for word in str(prompt).split():
            yield {"response": word + " "}
        yield {"done": "true"}


async def call(name: str, body: bytes = b"", query: str = "", method: str = "POST") -> Any:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "path": f"/{name}",
        "query_string": query.encode(),
        "headers": [],
    }
    handler = runpy.run_path(str(REPOSITORY / "functions" / name / "index.py"))["handler"]
    return await handler(Request(scope, receive))


async def text_of(response: StreamingResponse) -> list[str]:
    return [str(piece) async for piece in response.body_iterator]


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ai, "Session", EchoSession)
    monkeypatch.setenv("EMBEDDING_MODEL", "mine")


async def test_hello_greets() -> None:
    assert await call("hello", b'{"name":"Functions"}') == {"message": "Hello Functions!"}
    assert await call("hello") == {"message": "Hello World!"}


@pytest.mark.parametrize("name", ["hello", "embed"])
async def test_invalid_json_is_left_to_the_host(name: str) -> None:
    with pytest.raises(InvalidJSON):
        await call(name, b"{")


async def test_embed_takes_a_query_a_text_or_a_list() -> None:
    options = {"mean_pool": True, "normalize": True}
    assert await call("embed", query="input=a%20text", method="GET") == ["mine", "a text", options]
    assert await call("embed", b'{"input": "a text"}') == ["mine", "a text", options]
    assert await call("embed", b'{"input": ["a", "b"]}') == ["mine", ["a", "b"], options]


@pytest.mark.parametrize("body", [b"{}", b'{"input": ""}', b'{"input": []}', b"[]", b"1"])
async def test_embed_without_an_input_says_what_to_send(body: bytes) -> None:
    with pytest.raises(HTTPException) as raised:
        await call("embed", body)
    assert raised.value.status_code == 400
    assert '{"input": "…"}' in raised.value.detail


async def test_ollama_test_streams_bare_text_labelled_as_events() -> None:
    response = await call("ollama-test", query="prompt=a+b", method="GET")
    assert response.media_type == "text/event-stream"
    assert await text_of(response) == ["a ", "b ", ""]


async def test_stream_sends_as_many_events_as_asked_for() -> None:
    response = await call("stream", query="n=2&interval=0", method="GET")
    assert response.media_type == "text/event-stream"
    assert await text_of(response) == [
        "id: 1\nevent: tick\ndata: 1 of 2\n\n",
        "id: 2\nevent: tick\ndata: 2 of 2\n\n",
    ]


@pytest.mark.parametrize("query", ["n=x", "n=-1", "n=1001", "interval=nan", "interval=61", "interval=x"])
async def test_stream_refuses_what_makes_no_sense(query: str) -> None:
    with pytest.raises(HTTPException) as raised:
        await call("stream", query=query, method="GET")
    assert raised.value.status_code == 400
