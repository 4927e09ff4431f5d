"""Texts to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, normalizers

from runtime.errors import StartError


class Encoded(NamedTuple):
    """A text, or a pair of them, as the model sees it.

    Attributes:
        ids: special tokens included.
        truncated: an end is missing.
        types: of a pair: which of the two each token belongs to.
    """

    ids: list[int]
    truncated: bool
    types: Sequence[int] = ()


class TextTokenizer:
    """A model's own tokenizer, from its `tokenizer.json`.

    Args:
        path: the `tokenizer.json`.
        max_tokens: longer texts lose their end.
        prefix: what the model's authors want before every text.
        query_prefix: what they want before a question instead.
        lowercase: texts are read in small letters, whatever the file says.

    Raises:
        StartError: the file cannot be read.
    """

    def __init__(
        self,
        path: Path,
        max_tokens: int,
        prefix: str = "",
        query_prefix: str = "",
        lowercase: bool = False,
    ) -> None:
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
        self._prefix, self._query_prefix = prefix, query_prefix
        if lowercase:
            own = self._tokenizer.normalizer
            small = normalizers.Lowercase()
            self._tokenizer.normalizer = normalizers.Sequence([small, own] if own else [small])

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoded]:
        """One `Encoded` per text. Releases the GIL; meant for a thread.

        Args:
            query: the texts are questions, for which some models want another prefix.
        """
        prefix = self._query_prefix if query else self._prefix
        encodings = self._encodings(texts, prefix)
        return [Encoded(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]

    def encode_pairs(self, first: str, others: Sequence[str]) -> list[Encoded]:
        """The first text with each of the others; of a pair too long the longer text loses its end."""
        encodings = self._tokenizer.encode_batch_fast([(first, other) for other in others])
        return [Encoded(pair.ids, bool(pair.overflowing), pair.type_ids) for pair in encodings]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones and the prefix included, whatever the maximum."""
        special = self._tokenizer.num_special_tokens_to_add(False)
        return [
            len(encoding.ids) + sum(len(rest.ids) - special for rest in encoding.overflowing)
            for encoding in self._encodings(texts, self._prefix)
        ]

    def _encodings(self, texts: Sequence[str], prefix: str) -> list[Any]:
        texts = [prefix + text for text in texts] if prefix else list(texts)
        encodings: list[Any] = self._tokenizer.encode_batch_fast(texts)
        return encodings
