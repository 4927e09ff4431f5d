"""Texts to ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers

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


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()])
def test_capitals_are_made_small_where_the_model_wants_it(
    tmp_path: Path, path: Path, normalizer: normalizers.Normalizer | None
) -> None:
    cased = Tokenizer.from_file(str(path))
    cased.normalizer = normalizer
    cased.save(str(tmp_path / "tokenizer.json"))
    plain, small = (TextTokenizer(tmp_path / "tokenizer.json", 10, lowercase=wish) for wish in (False, True))
    assert words(plain.encode(["Hello"])[0].ids) == ["[CLS]", "[UNK]", "[SEP]"]
    assert words(small.encode(["Hello"])[0].ids) == ["[CLS]", "hello", "[SEP]"]
    assert words(small.encode_pairs("HELLO", ["The"])[0].ids)[1:4:2] == ["hello", "the"]


def test_whitespace_alone_is_a_text_without_words(path: Path) -> None:
    (encoded,) = TextTokenizer(path, 10).encode([" \n"])
    assert words(encoded.ids) == ["[CLS]", "[SEP]"]


def test_a_pair_says_which_of_the_two_a_token_belongs_to(path: Path) -> None:
    short, long = TextTokenizer(path, 8).encode_pairs("hello", ["the word", "the " * 9])
    assert words(short.ids) == ["[CLS]", "hello", "[SEP]", "the", "word", "[SEP]"]
    assert short.types == [0, 0, 0, 1, 1, 1]
    assert not short.truncated
    assert words(long.ids) == ["[CLS]", "hello", "[SEP]", *["the"] * 4, "[SEP]"]
    assert long.types == [0, 0, 0, 1, 1, 1, 1, 1]
    assert long.truncated


@pytest.mark.parametrize("number", [0, 1, 5, 6, 7, 12, 13, 1000])
def test_tokens_are_counted_beyond_the_maximum(number: int, path: Path) -> None:
    assert TextTokenizer(path, 8).count(["the " * number]) == [number + 2]
    assert TextTokenizer(path, 8, prefix="hello ").count(["the " * number]) == [number + 3]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(StartError, match=str(path)):
        TextTokenizer(path, 10)
