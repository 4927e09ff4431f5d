from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.ai.llm.chunk import Chunk, compact, failure_in, is_object, parse

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_an_object_answers_to_attributes_at_every_depth() -> None:
    chunk = parse(b'{"choices": [{"delta": {"content": "x"}}], "done": true}')
    assert chunk.choices[0].delta.content == "x"
    assert chunk["done"] is chunk.done is True
    assert chunk.get("response", "") == ""


def test_a_missing_attribute_is_an_attribute_error_that_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="no 'response'; it has message, done"):
        _ = Chunk(message=1, done=2).response
    assert getattr(Chunk(), "response", "nothing") == "nothing"


@pytest.mark.parametrize("data", [b"", b"[]", b'"text"', b"{", b"\xff{}", b'{"a": 1} {}', b"[" * 100_000])
def test_what_is_no_json_object_is_told_apart(data: bytes) -> None:
    assert not is_object(data)


@given(st.dictionaries(st.text(), values))
def test_compact_json_says_the_same_on_one_line_for_every_client(value: dict[str, object]) -> None:
    data = compact(value)
    assert json.loads(data) == value
    assert len(data.decode().splitlines()) == 1


def test_compact_json_is_readable_and_survives_half_a_character() -> None:
    assert compact({"a": "höre 火", "b": 1.0}) == '{"a":"höre 火","b":1.0}'.encode()
    assert compact({"a": "\ud83d\u2028"}) == b'{"a":"\\ud83d\\u2028"}'


def test_an_error_is_found_in_both_apis_shapes() -> None:
    ollama, openai = (
        failure_in(Chunk(error="busy")),
        failure_in(parse('{"error": {"message": "too long", "code": 1}}')),
    )
    assert ollama is not None
    assert ollama.body == "busy"
    assert openai is not None
    assert openai.body == "too long"
    assert failure_in(parse('{"error": null, "response": "x"}')) is None
    unusual = failure_in(parse('{"error": {"reason": "?"}}'))
    assert unusual is not None
    assert unusual.body == '{"reason":"?"}'
