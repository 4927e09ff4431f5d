from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median

import pytest

from bench.texts import LONGEST, Writer, lengths
from bench.traffic import percentile


@pytest.mark.parametrize("count", [48, 240, 5000])
def test_few_lengths_are_like_many(count: int) -> None:
    found = lengths(count)
    assert len(found) == count
    assert 58 < fmean(found) < 63
    assert 32 <= median(found) <= 36
    assert 200 < percentile(found, 95) < 280
    assert max(found) <= LONGEST


def test_another_seed_gives_the_same_lengths_in_another_order() -> None:
    assert lengths(100, seed=1) != lengths(100, seed=2)
    assert sorted(lengths(100, seed=1)) == sorted(lengths(100, seed=2))


def test_a_text_has_a_word_for_each_token_but_the_special_ones(tmp_path: Path) -> None:
    words = ["river", "stone", "cloud", "##ing", "[CLS]", "ab", "naïve", "42"]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": {word: place for place, word in enumerate(words)}}}))
    writer = Writer(path)
    texts = writer.texts([3, 10, 512])
    assert [len(text.split()) for text in texts] == [1, 8, 510]
    assert set(" ".join(texts).split()) == {"river", "stone", "cloud"}
    some = writer.any()
    assert all(1 <= len(next(some).split()) <= LONGEST - 2 for _ in range(50))
