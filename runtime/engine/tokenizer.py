"""Texts to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from runtime.errors import StartError


class Encoded(NamedTuple):
    """A text as the model sees it: ids with special tokens; `truncated`: its end is missing."""

    ids: list[int]
    truncated: bool


class TextTokenizer:
    """A model's own tokenizer, from its `tokenizer.json`.

    Args:
        path: the `tokenizer.json`.
        max_tokens: longer texts lose their end.
        prefix: what the model's authors want before every text.

    Raises:
        StartError: the file cannot be read.
    """

    def __init__(self, path: Path, max_tokens: int, prefix: str = "") -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise StartError(
                f"The tokenizer cannot be read: {error}",
                where=str(path),
                remedy="install the model again; the file must be a tokenizer.json of the tokenizers library",
            ) from error
        # The file may say "pad everything to 128 and cut there": neither is wanted.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._prefix = prefix

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One `Encoded` per text. Releases the GIL; meant for a thread."""
        if self._prefix:
            texts = [self._prefix + text for text in texts]
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [Encoded(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]
