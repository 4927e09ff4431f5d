from __future__ import annotations

from typing import Any

import pytest

from runtime import ai
from runtime.ai.llm.ollama import Ollama
from runtime.ai.llm.openai import OpenAI
from runtime.ai.llm.wire import Wire
from tests.ai.upstream import SONG, completed, generated, ndjson, sse


def read(wire: Wire, *pieces: bytes) -> list[ai.Chunk]:
    chunks = [chunk for piece in pieces for chunk in wire.feed(piece)]
    return [*chunks, *wire.end()]


@pytest.mark.parametrize(
    ("make", "stream", "objects"),
    [
        (Ollama, ndjson(*generated(*SONG)), generated(*SONG)),
        (OpenAI, sse(*completed(*SONG)), completed(*SONG)),
    ],
)
def test_a_recorded_stream_cut_at_every_byte_gives_the_same_objects_and_text(
    make: type[Wire], stream: bytes, objects: list[dict[str, Any]]
) -> None:
    for at in range(len(stream) + 1):
        wire = make()
        chunks = read(wire, stream[:at], stream[at:])
        assert chunks == objects
        assert "".join(map(wire.text, chunks)) == "".join(SONG)


@pytest.mark.parametrize(
    ("prompt", "path", "body"),
    [
        ("hi", "/api/generate", {"prompt": "hi"}),
        ({"prompt": "hi", "system": "s"}, "/api/generate", {"prompt": "hi", "system": "s"}),
        ({"messages": []}, "/api/chat", {"messages": []}),
    ],
)
def test_ollama_has_a_path_for_texts_and_one_for_chats(prompt: Any, path: str, body: dict[str, Any]) -> None:
    assert Ollama().request(prompt) == (path, body)


def test_a_chat_completion_wraps_a_text_into_a_message() -> None:
    path = "/v1/chat/completions"
    assert OpenAI().request("hi") == (path, {"messages": [{"role": "user", "content": "hi"}]})
    assert OpenAI().request({"messages": [], "n": 1}) == (path, {"messages": [], "n": 1})


def test_the_text_of_a_chat_is_its_messages_content() -> None:
    chat = {"message": {"role": "assistant", "content": "x"}, "done": False}
    (chunk,) = Ollama().feed(ndjson(chat))
    assert Ollama().text(chunk) == "x"


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [{"delta": {}}]},
        {"choices": [{"delta": {"content": None, "tool_calls": []}}]},
        {"response": None},
        {"message": {"content": None, "tool_calls": []}},
    ],
)
@pytest.mark.parametrize("wire", [Ollama(), OpenAI()])
def test_a_chunk_without_text_adds_none(wire: Wire, chunk: dict[str, Any]) -> None:
    assert wire.text(ai.Chunk(chunk)) == ""


def test_an_ollama_stream_without_done_is_incomplete() -> None:
    with pytest.raises(ai.IncompleteStream, match="done"):
        read(Ollama(), ndjson(*generated("a", done=False)))


def test_an_ollama_stream_cut_inside_a_line_is_incomplete() -> None:
    with pytest.raises(ai.IncompleteStream):
        read(Ollama(), ndjson(*generated("a"))[:-10])


def test_the_last_line_needs_no_line_feed() -> None:
    assert read(Ollama(), ndjson(*generated("a"))[:-1]) == generated("a")


def test_loading_a_model_is_one_object_and_complete() -> None:
    loaded = {"model": "m", "done": True, "done_reason": "load"}
    assert read(Ollama(), ndjson(loaded)[:-1]) == [loaded]


@pytest.mark.parametrize("end", ["\n", ""])
def test_an_error_line_inside_an_ollama_stream_is_an_upstream_error(end: str) -> None:
    wire = Ollama()
    assert len(list(wire.feed(ndjson(*generated("a", done=False))))) == 1
    with pytest.raises(ai.UpstreamError, match="inside the stream: out of memory") as raised:
        read(wire, b'{"error":"out of memory"}' + end.encode())
    assert (raised.value.status, raised.value.body) == (0, "out of memory")


def test_objects_before_a_bad_line_are_delivered_however_the_bytes_come() -> None:
    stream = ndjson(*generated("a", "b", done=False)) + b"<html>\n"
    chunks = Ollama().feed(stream)
    assert [next(chunks), next(chunks)] == generated("a", "b", done=False)
    with pytest.raises(ai.UpstreamError, match="no JSON object: <html>"):
        next(chunks)


def test_nothing_follows_the_closing_object() -> None:
    assert read(Ollama(), ndjson(*generated("a"), {"late": 1}) + b"junk") == generated("a")
    assert read(OpenAI(), sse(*completed("a")) + b"data: junk\n\n") == completed("a")


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
def test_every_finish_reason_is_an_end_and_the_usage_after_it_is_delivered(reason: str) -> None:
    objects = [*completed("a", reason=reason), {"id": "c", "choices": [], "usage": {"total_tokens": 3}}]
    assert read(OpenAI(), sse(*objects)) == objects
    assert read(OpenAI(), sse(*objects, done=False)) == objects


def test_a_completion_without_reason_and_done_is_incomplete() -> None:
    with pytest.raises(ai.IncompleteStream, match="DONE"):
        read(OpenAI(), sse(*completed("a", reason=None), {"choices": [{"delta": {}}]}, done=False))


@pytest.mark.parametrize("second", ["stop", None])
def test_without_done_every_choice_must_have_ended(second: str | None) -> None:
    objects = [
        {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]},
        {"choices": [{"index": 1, "delta": {}, "finish_reason": second}]},
    ]
    if second is None:
        assert read(OpenAI(), sse(*objects)) == objects
        with pytest.raises(ai.IncompleteStream, match="finish_reason"):
            read(OpenAI(), sse(*objects, done=False))
    else:
        assert read(OpenAI(), sse(*objects, done=False)) == objects


def test_events_without_content_are_passed_over() -> None:
    stream = b": beat\n\nevent: ping\n\ndata\n\ndata:\n\n" + sse(*completed("a"))
    assert read(OpenAI(), stream) == completed("a")


def test_done_alone_ends_a_completion() -> None:
    assert read(OpenAI(), sse(*completed("a", reason=None))) == completed("a", reason=None)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (b'data: {"error": {"message": "too long", "code": 400}}\n\n', "too long"),
        (b'data: {"choices": [], "error": "too long"}\n\n', "too long"),
        (b'event: error\ndata: {"error": {"message": "too long"}}\n\n', "too long"),
        (b'event: error\ndata: {"message": "too long"}\n\n', '{"message": "too long"}'),
        (b"event: error\ndata: too\ndata: long\n\n", "too\nlong"),
        (b"event: error\ndata: [DONE]\n\n", "[DONE]"),
        (b"event: error\ndata\n\n", "(no text)"),
    ],
)
def test_an_error_event_inside_a_completion_is_an_upstream_error(event: bytes, said: str) -> None:
    with pytest.raises(ai.UpstreamError) as raised:
        read(OpenAI(), sse(*completed("a"), done=False) + event)
    assert (raised.value.status, raised.value.body) == (0, said)
