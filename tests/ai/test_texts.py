from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import ai
from runtime.ai.texts import MAX_TEXT, PART_BYTES, PART_TEXTS, checked, grouped, parts, vectors


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "prompt is NoneType"),
        (7, "prompt is int"),
        (b"text", "prompt is bytes"),
        ({"a": 1}, "prompt is dict"),
        ("", "prompt is empty"),
        (["a", "b", "c", 4], r"prompt\[3\] is int"),
        (["a", None], r"prompt\[1\] is NoneType"),
        (["a", ["b"]], r"prompt\[1\] is list"),
        (["a", ""], r"prompt\[1\] is empty"),
        ("half \ud83d", "prompt has half a character .* at 5"),
    ],
)
def test_what_is_no_text_is_refused_by_kind_and_place(prompt: object, message: str) -> None:
    with pytest.raises(ai.InvalidInput, match=f"^{message}"):
        checked(prompt)


def test_a_text_over_the_limit_is_refused_with_its_size_and_a_way_out() -> None:
    with pytest.raises(ai.InputTooLarge, match=r"prompt\[1\] is 524289 bytes.*524288.*split"):
        checked(["fine", "x" * (MAX_TEXT + 1)])
    assert checked("é" * (MAX_TEXT // 2)) == ["é" * (MAX_TEXT // 2)]


def test_a_list_or_a_tuple_of_texts_is_taken() -> None:
    assert checked(["a", "b"]) == checked(("a", "b")) == ["a", "b"]
    assert checked([]) == []


@given(st.lists(st.text(min_size=1).map(lambda text: text * 40), max_size=200))
def test_parts_keep_every_text_in_order_and_fit_into_a_frame(texts: list[str]) -> None:
    cut = list(parts(texts))
    assert [text for part in cut for text in part] == texts
    assert all(0 < len(part) <= PART_TEXTS for part in cut)


def test_long_texts_get_parts_of_their_own() -> None:
    large = "x" * (PART_BYTES - 1)
    assert [len(part) for part in parts([large, "yy", "z", large, large])] == [1, 2, 1, 1]


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(1, 6))
def test_rows_come_back_in_the_groups_they_came_from(counts: list[int], dimensions: int) -> None:
    flat = array("f", range(sum(counts) * dimensions))
    groups = grouped(vectors(flat.tobytes(), dimensions), counts)
    assert [len(group) for group in groups] == counts
    assert [value for group in groups for vector in group for value in vector] == list(flat)
