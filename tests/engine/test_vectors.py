"""Rows: pooled, scaled, cut into pieces."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from runtime.engine.vectors import PIECE, cut, pieces, pool
from runtime.tensors import normalized

HIDDEN = np.array([[3, 0], [0, 4], [3, 4]], dtype=np.float32)


def test_mean_pooling_is_the_mean_of_the_tokens() -> None:
    assert pool(HIDDEN, "mean").tolist() == [[2, np.float32(8 / 3)]]


def test_cls_pooling_is_the_first_token() -> None:
    assert pool(HIDDEN, "cls").tolist() == [[3, 0]]


def test_each_row_is_scaled_by_itself() -> None:
    assert np.allclose(normalized(HIDDEN), np.array([[1, 0], [0, 1], [0.6, 0.8]]))


def test_a_row_of_zeros_stays_one() -> None:
    assert normalized(np.zeros((1, 2), np.float32)).tolist() == [[0, 0]]


def test_a_cut_of_centred_rows_is_that_of_a_layer_normalisation() -> None:
    rows = np.random.default_rng(1).normal(3, 2, (5, 24)).astype(np.float32)
    normed = (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(rows.var(axis=1, keepdims=True) + 1e-5)
    wanted = normed[:, :8] / np.linalg.norm(normed[:, :8], axis=1, keepdims=True)
    assert np.allclose(normalized(cut(rows, 8, centred=True)), wanted, atol=1e-5)
    assert not np.allclose(normalized(cut(rows, 8, centred=False)), wanted, atol=1e-2)


def test_nothing_is_subtracted_where_nothing_is_cut() -> None:
    assert np.array_equal(cut(HIDDEN, 2, centred=True), HIDDEN)


@pytest.mark.parametrize("size", [3e38, 1e20, 1, 1e-25, 1e-40])
def test_large_and_tiny_rows_are_scaled_like_others(size: float) -> None:
    rows = np.array([[size, size, 0]], np.float32)
    assert np.allclose(normalized(rows), [[0.5**0.5, 0.5**0.5, 0]], atol=1e-6)
    assert normalized(rows).dtype == np.float32


def test_pieces_are_small_end_at_rows_and_lose_nothing() -> None:
    rows = np.arange(1000 * 384, dtype=np.float32).reshape(-1, 384)
    cut = list(pieces([rows[:1], rows[1:700], rows[700:]]))
    assert len(cut) == 3
    assert all(len(piece) <= PIECE and len(piece) % (4 * 384) == 0 for piece in cut)
    assert b"".join(cut) == rows.tobytes()


def test_pieces_are_made_one_by_one() -> None:
    texts = [np.zeros((512, 384), np.float32) for _ in range(32)]
    tracemalloc.start()
    try:
        assert len(next(pieces(texts))) <= PIECE
        assert tracemalloc.get_traced_memory()[1] < 4 * PIECE
    finally:
        tracemalloc.stop()


def test_nothing_is_no_piece() -> None:
    assert list(pieces([])) == []
