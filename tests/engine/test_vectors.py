"""Rows: pooled, scaled, cut into pieces."""

from __future__ import annotations

import numpy as np

from runtime.engine.vectors import PIECE, normalized, pieces, pool

HIDDEN = np.array([[3, 0], [0, 4], [3, 4]], dtype=np.float32)


def test_mean_pooling_is_the_mean_of_the_tokens() -> None:
    assert pool(HIDDEN, "mean").tolist() == [[2, np.float32(8 / 3)]]


def test_cls_pooling_is_the_first_token() -> None:
    assert pool(HIDDEN, "cls").tolist() == [[3, 0]]


def test_each_row_is_scaled_by_itself() -> None:
    assert np.allclose(normalized(HIDDEN), np.array([[1, 0], [0, 1], [0.6, 0.8]]))


def test_a_row_of_zeros_stays_one() -> None:
    assert normalized(np.zeros((1, 2), np.float32)).tolist() == [[0, 0]]


def test_pieces_are_small_end_at_rows_and_lose_nothing() -> None:
    rows = np.arange(1000 * 384, dtype=np.float32).reshape(-1, 384)
    cut = list(pieces([rows[:1], rows[1:700], rows[700:]]))
    assert len(cut) == 3
    assert all(len(piece) <= PIECE and len(piece) % (4 * 384) == 0 for piece in cut)
    assert b"".join(cut) == rows.tobytes()


def test_nothing_is_no_piece() -> None:
    assert list(pieces([])) == []
