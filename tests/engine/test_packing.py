"""Where the tokens of a batch lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.engine.packing import packed_feeds
from runtime.engine.scheduler import Pair

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=20)


def feeds_of(lengths: list[int]) -> dict[str, NDArray[Any]]:
    texts = [[text * 1000 + place for place in range(length)] for text, length in enumerate(lengths)]
    return packed_feeds(texts, np.array(lengths))


def cells(feeds: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Of all rectangles, one after the other."""
    idle = not feeds["split"]
    return np.concatenate([feeds[name].ravel(), *([] if idle else [feeds[f"{name}_far"].ravel()])])


def squares(feeds: dict[str, NDArray[Any]]) -> int:
    """What attention computes."""
    return sum(
        feeds[name].size * feeds[name].shape[1]
        for name in ("places", "places_far")
        if name == "places" or feeds["split"]
    )


@given(LENGTHS)
def test_every_token_is_found_in_its_cell_and_no_other_counts(lengths: list[int]) -> None:
    feeds = feeds_of(lengths)
    mine = feeds["before"] + feeds["position_ids"]
    assert cells(feeds, "places")[mine].tolist() == list(range(sum(lengths)))
    bias = cells(feeds, "bias")
    assert (bias[mine] == 0).all()
    assert (np.delete(bias, mine) < -1e20).all()
    assert bool(feeds["split"] or feeds["ragged"]) == (len(set(lengths)) > 1)


@given(LENGTHS)
def test_a_cell_without_a_token_stands_for_one_of_its_own_text(lengths: list[int]) -> None:
    feeds = feeds_of(lengths)
    for end in ("", "_far") if feeds["split"] else ("",):
        texts = feeds["input_ids"][feeds[f"places{end}"]] // 1000
        assert (texts == texts[:, :1]).all()


@given(LENGTHS)
def test_the_rest_says_whose_a_token_is(lengths: list[int]) -> None:
    feeds = feeds_of(lengths)
    assert (feeds["input_ids"] % 1000 == feeds["position_ids"]).all()
    assert (feeds["input_ids"][feeds["starts"]] == 1000 * np.arange(len(lengths))).all()
    assert not feeds["token_type_ids"].any()


@given(LENGTHS)
def test_a_second_rectangle_is_there_only_where_it_saves(lengths: list[int]) -> None:
    feeds = feeds_of(lengths)
    one = len(lengths) * max(lengths) ** 2
    best = min(
        count * length**2 + (len(lengths) - count) * max(lengths) ** 2
        for count, length in enumerate(sorted(lengths), start=1)
    )
    assert squares(feeds) in (one, best)
    assert bool(feeds["split"]) == (one - best > 3000)


def test_the_second_text_of_a_pair_is_told_from_the_first() -> None:
    feeds = packed_feeds([Pair([7, 8, 9], [0, 0, 1]), [5]], np.array([3, 1]))
    assert feeds["token_type_ids"].tolist() == [0, 0, 1, 0]
