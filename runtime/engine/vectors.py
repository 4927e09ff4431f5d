"""From a model's output to the rows of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]

PIECE = 512 * 1024
"""Bytes of one `Vectors` frame at most."""


def pool(hidden: Rows, pooling: str) -> Rows:
    """One row out of a row per token: "mean", or "cls" for the first token's.

    Texts are never padded, so every row counts.
    """
    mean: Rows = hidden.mean(axis=0, keepdims=True)
    return hidden[:1] if pooling == "cls" else mean


def normalized(rows: Rows) -> Rows:
    """Every row scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Rows = rows / np.maximum(lengths, np.float32(1e-12))
    return scaled


def pieces(texts: Sequence[Rows]) -> Iterator[bytes]:
    """The rows of all texts as float32 little-endian, in pieces that end where a row ends."""
    if not texts:
        return
    rows = np.concatenate(texts).astype("<f4", copy=False)
    step = max(1, PIECE // (4 * rows.shape[1]))
    for start in range(0, len(rows), step):
        yield rows[start : start + step].tobytes()
