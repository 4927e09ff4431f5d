"""Texts of known lengths: of the mix that callers send, made from a tokenizer's own words."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist

LONGEST = 512
SHORT = (6, 8, 10, 12)
"""Lengths of what somebody types into a search box."""

MEDIAN, SIGMA, FEWEST = 32, 0.88, 4
LONG_SHARE, LONG = 0.04, (256, 512)
_SPECIAL = 2  # tokens around every text
_LETTERS = 3  # of a word, at least: shorter ones are parts of others more often than words


def lengths(count: int, seed: int = 1) -> list[int]:
    """So many lengths in tokens: lognormal with median 32, and 4 % of 256 to 512.

    They are the mix's quantiles in a random order, so that few of them are like many.
    """
    long = round(count * LONG_SHARE)
    found = [_lognormal((place + 0.5) / (count - long)) for place in range(count - long)]
    least, most = LONG
    found += [round(least + (most - least) * (place + 0.5) / long) for place in range(long)]
    random.Random(seed).shuffle(found)
    return found


def _lognormal(quantile: float) -> int:
    length = math.exp(math.log(MEDIAN) + SIGMA * NormalDist().inv_cdf(quantile))
    return max(FEWEST, min(LONGEST, round(length)))


class Writer:
    """Writes texts of any length in tokens.

    Args:
        tokenizer: a `tokenizer.json` with a vocabulary of words.
    """

    def __init__(self, tokenizer: Path, seed: int = 1) -> None:
        vocabulary = json.loads(tokenizer.read_bytes())["model"]["vocab"]
        self._words = sorted(filter(_is_word, vocabulary))
        self._chance = random.Random(seed)

    def text(self, length: int) -> str:
        """A text of so many tokens, the special ones included."""
        return " ".join(self._chance.choices(self._words, k=length - _SPECIAL))

    def texts(self, wanted: Sequence[int]) -> list[str]:
        """A text of each length."""
        return [self.text(length) for length in wanted]

    def any(self, seed: int = 2) -> Iterator[str]:
        """Texts without end, of all lengths that a model reads, each as likely."""
        chance = random.Random(seed)
        while True:
            yield self.text(chance.randint(_SPECIAL + 1, LONGEST))


def _is_word(token: str) -> bool:
    return len(token) >= _LETTERS and token.isascii() and token.isalpha()
