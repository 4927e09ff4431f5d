from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.ai.llm.sse import DONE, Event, Events, error_event, event
from tests.ai.llm.recorded import interpreted


def events(*pieces: bytes) -> list[Event]:
    parser = Events()
    return [event for piece in pieces for event in parser.feed(piece)]


RECORDED = (
    '\ufeffdata: {"a": "höre 火 🎵"}\r\n\r\n: a comment\r\ndata: one\ndata:two\n\n'
    "event: error\rdata:  spaced\r\rid: 7\nretry: 10\nunknown: x\ndata\n\ndata: [DONE]\n\n"
).encode()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: x\n\n", [Event("message", "x")]),
        (b"data:x\r\rdata:y\r\n\r\n", [Event("message", "x"), Event("message", "y")]),
        (b"data: one\ndata: two\n\n", [Event("message", "one\ntwo")]),
        (b"event: error\ndata: x\n\ndata: y\n\n", [Event("error", "x"), Event("message", "y")]),
        (b": comment\n\n:\n\n", []),
        (b"event: nothing\n\ndata: x\n\n", [Event("message", "x")]),
        (b"\xef\xbb\xbfdata: x\n\n", [Event("message", "x")]),
        (b"data: \xef\xbb\xbfx\n\n", [Event("message", "\ufeffx")]),
        (b"data:  two spaces\n\n", [Event("message", " two spaces")]),
        (b"data: a:b\n\n", [Event("message", "a:b")]),
        (b"data\n\ndata\ndata\n\ndata:", [Event("message", ""), Event("message", "\n")]),
        (b"data:x\n\ndata: x\n\n", [Event("message", "x"), Event("message", "x")]),
        (b"data: \xf0\x9f\x8e\n\n", [Event("message", "\ufffd")]),
        (b"data: \0\n\n", [Event("message", "\0")]),
        (b" data: x\nDATA: x\n\n", []),
        (b"event: a\nevent: b\ndata: x\n\n", [Event("b", "x")]),
        (b"event: a\nevent\ndata: x\n\n", [Event("message", "x")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
        (b"data: unfinished\n", []),
        ("data: \u2028\u0085\n\n".encode(), [Event("message", "\u2028\u0085")]),
    ],
)
def test_events_are_read_as_the_specification_says(stream: bytes, expected: list[Event]) -> None:
    assert events(stream) == expected


def test_a_stream_cut_in_two_at_every_byte_gives_the_same_events() -> None:
    whole = interpreted(RECORDED)
    assert [name for name, _ in whole] == ["message", "message", "error", "message", "message"]
    for at in range(len(RECORDED) + 1):
        assert events(RECORDED[:at], RECORDED[at:]) == whole


@given(
    st.lists(
        st.sampled_from([b"data", b"event", b":", b" ", b"\r", b"\n", b"x", "火".encode(), b"\xef\xbb\xbf"])
    ),
    st.data(),
)
def test_events_do_not_depend_on_how_the_bytes_were_cut(tokens: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(tokens) + b"\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events(*pieces) == interpreted(stream)


def test_what_we_write_is_read_back() -> None:
    assert events(event({"a": "x\ny\u2028"}) + error_event("CODE", "why") + DONE) == [
        Event("message", '{"a":"x\\ny\\u2028"}'),
        Event("error", '{"code":"CODE","message":"why"}'),
        Event("message", "[DONE]"),
    ]
