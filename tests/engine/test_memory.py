"""What the engine's process keeps of the memory that it once needed."""

from __future__ import annotations

import platform
import random
from pathlib import Path

import numpy as np
import psutil
import pytest

from runtime.engine.models.pull import pull_folder
from runtime.engine.models.store import Store

from .process import Client, Engine, running_engine
from .tiny import HIDDEN, random_weights, write_folder

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere it is the C library's affair"),
]

LONGEST = 2048
"""Tokens: attention to so many takes tens of megabytes, in a model that is small itself."""


@pytest.fixture(scope="module")
def long_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model that reads long texts."""
    folder = tmp_path_factory.mktemp("long")
    positions = np.random.default_rng(5).normal(0, 0.3, (LONGEST, HIDDEN)).astype(np.float32)
    weights = random_weights() | {"embeddings.position_embeddings.weight": positions}
    author = write_folder(folder / "author", weights, config={"max_position_embeddings": LONGEST})
    pull_folder(author, "long", Store(folder / "models", {}), lambda *_: None)
    return folder / "models"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
async def test_memory_stays_flat_over_random_lengths(precision: str, long_models: Path) -> None:
    with running_engine(long_models, precisions={"long": precision}) as engine:
        async with engine.connect() as client:
            short = await level(engine, client, [100] * 50)
            choices = random.Random(1).choices
            first, _, last = [await level(engine, client, choices(range(1, LONGEST), k=60)) for _ in range(3)]
    assert first <= 1.4 * short  # scratch memory that was kept would double it
    assert last <= 1.05 * first


async def level(engine: Engine, client: Client, lengths: list[int]) -> int:
    """Bytes that are resident after texts of so many words."""
    await client.embed("long", ["word " * length for length in lengths])
    return int(psutil.Process(engine.process.pid).memory_info().rss)
