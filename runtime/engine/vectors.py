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


def cut(rows: Rows, dimensions: int, centred: bool) -> Rows:
    """The first numbers of every row; all of them are left as they are.

    Args:
        centred: the row's mean is subtracted first, as a layer normalisation does. That one
            divides by the standard deviation too: to rows that get length 1 it is the same,
            others keep their scale here.
    """
    if centred and dimensions < rows.shape[1]:
        rows = rows - rows.mean(axis=1, keepdims=True)
    return rows[:, :dimensions]


def pieces(texts: Sequence[Rows]) -> Iterator[bytes]:
    """The rows of all texts as float32 little-endian, in pieces that end where a row ends.

    Made one by one as they are asked for: together they may take many megabytes.
    """
    parts: list[bytes] = []
    free = step = max(1, PIECE // (4 * texts[0].shape[1])) if texts else 0
    for rows in texts:
        left = rows.astype("<f4", copy=False)
        while len(left):
            part, left = left[:free], left[free:]
            parts.append(part.tobytes())
            free -= len(part)
            if not free:
                yield b"".join(parts)
                parts, free = [], step
    if parts:
        yield b"".join(parts)
