"""Vectors that depend on the text alone, the same on every machine and for ever.

A text's vector is the mean of its words' vectors and a little of the whole text's own, so
that texts which share words are near each other, and a search that is tested with them
finds what a person would expect.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice

_TOKEN = re.compile(r"\w+|[^\w\s]")
_OWN = 0.25  # the share of the text itself, beside its words


def tokens(text: str, most: int) -> tuple[list[str], bool]:
    """The words and signs of a text between its two special tokens, and whether it was cut.

    Args:
        most: how many tokens the model reads, the special ones included.
    """
    found = _TOKEN.findall(text)
    return ["[CLS]", *found[: most - 2], "[SEP]"], len(found) > most - 2


def of_text(
    text: str, most: int, dimensions: int, *, normalize: bool, keep: int | None = None
) -> array[float]:
    """One vector for a text, or the beginning of it: `keep` numbers."""
    words, cut = tokens(text, most)
    whole = " ".join(words) if cut else text
    rows = [_direction(word.lower(), dimensions) for word in words[1:-1] or words]
    own = _direction(f"\0{whole}", dimensions)
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return _row((a + _OWN * b for a, b in zip(mean, own, strict=True)), normalize, keep)


def of_tokens(
    text: str, most: int, dimensions: int, *, normalize: bool, keep: int | None = None
) -> list[array[float]]:
    """One vector for each token of a text; equal words differ by where they stand."""
    words, _ = tokens(text, most)
    return [
        _row(_direction(f"{place}\0{word.lower()}", dimensions), normalize, keep)
        for place, word in enumerate(words)
    ]


def score(query: str, words: Iterable[str]) -> float:
    """How well a document answers a query: from -5, if it has none of its words, to 5, if it has all.

    Long words count for more. Documents that have the same of them differ a little.
    """
    asked = {word.lower() for word in _TOKEN.findall(query)}
    found = {word.lower() for word in words}
    share = sum(map(len, asked & found)) / max(sum(map(len, asked)), 1)
    (own,) = _direction(f"{query}\0{' '.join(sorted(found))}", 1)
    return 10 * share - 5 + own / 1000


def _row(values: Iterable[float], normalize: bool, keep: int | None) -> array[float]:
    row = array("f", islice(values, keep))
    if not normalize:
        return row
    length = math.sqrt(math.fsum(value * value for value in row))
    return array("f", (value / length for value in row))


@lru_cache(maxsize=4096)
def _direction(name: str, dimensions: int) -> tuple[float, ...]:
    """Numbers between -1 and 1 that nothing but the name decides."""
    data = hashlib.shake_256(name.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    pairs = zip(data[::2], data[1::2], strict=True)
    return tuple((256 * high + low - 32767.5) / 32767.5 for high, low in pairs)
