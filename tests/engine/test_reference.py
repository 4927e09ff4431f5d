"""Real weights against vectors that sentence-transformers computed (bench/reference_vectors.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engine.models.catalogue import EMBEDDED

from .process import Engine, running_engine

pytestmark = pytest.mark.anyio

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "all-minilm-l6-v2.json").read_text())
TEXTS = [row["text"] for row in REFERENCE["rows"]]


@pytest.fixture(scope="module")
def engine(real_models_dir: Path) -> Iterator[Engine]:
    with running_engine(real_models_dir, EMBEDDED) as process:
        yield process


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


async def test_vectors_equal_the_reference(engine: Engine) -> None:
    async with engine.connect() as client:
        result = await client.embed(EMBEDDED, TEXTS)
    expected = np.array([row["vector"] for row in REFERENCE["rows"]])
    assert cosines(result.rows, expected).min() >= 0.9999
    assert np.allclose(np.linalg.norm(result.rows, axis=1), 1, atol=1e-5)
    assert result.end.truncated == [TEXTS.index(text) for text in TEXTS if len(text) > 2000]


async def test_a_vector_does_not_depend_on_what_ran_beside_it(engine: Engine) -> None:
    async with engine.connect() as client:
        together = await client.embed(EMBEDDED, TEXTS * 3)
        for index, text in enumerate(TEXTS):
            alone = await client.embed(EMBEDDED, [text])
            same = np.stack([together.rows[index + turn * len(TEXTS)] for turn in range(3)])
            assert cosines(same, np.repeat(alone.rows, 3, axis=0)).min() >= 1 - 1e-5


async def test_each_token_has_a_vector_of_length_one(engine: Engine) -> None:
    async with engine.connect() as client:
        result = await client.embed(EMBEDDED, TEXTS, mean_pool=False)
    assert result.end.rows == result.end.tokens
    assert len(result.rows) == sum(result.end.tokens)
    assert np.allclose(np.linalg.norm(result.rows, axis=1), 1, atol=1e-5)
