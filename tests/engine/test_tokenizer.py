"""Texts to ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.engine.tokenizer import TextTokenizer
from runtime.errors import StartError

from .tiny import VOCABULARY


@pytest.fixture
def path(tiny_folder: Path) -> Path:
    return tiny_folder / "tokenizer.json"


def words(ids: list[int]) -> list[str]:
    return [VOCABULARY[id] for id in ids]


def test_the_files_own_padding_and_truncation_do_not_count(path: Path) -> None:
    short, long = TextTokenizer(path, 10).encode(["hello", "the word " * 4])
    assert words(short.ids) == ["[CLS]", "hello", "[SEP]"]
    assert words(long.ids) == ["[CLS]", *["the", "word"] * 4, "[SEP]"]
    assert not short.truncated
    assert not long.truncated


def test_a_text_over_the_maximum_loses_its_end_and_says_so(path: Path) -> None:
    (encoded,) = TextTokenizer(path, 5).encode(["the word hello father"])
    assert words(encoded.ids) == ["[CLS]", "the", "word", "hello", "[SEP]"]
    assert encoded.truncated


def test_the_prefix_is_put_before_every_text(path: Path) -> None:
    encoded = TextTokenizer(path, 10, prefix="hello ").encode(["the", "word"])
    assert [words(text.ids)[1:-1] for text in encoded] == [["hello", "the"], ["hello", "word"]]


def test_whitespace_alone_is_a_text_without_words(path: Path) -> None:
    (encoded,) = TextTokenizer(path, 10).encode([" \n"])
    assert words(encoded.ids) == ["[CLS]", "[SEP]"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(StartError, match=str(path)):
        TextTokenizer(path, 10)
