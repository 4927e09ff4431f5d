"""The real hub and its real model. Run it with `pytest -m network`: it downloads 134 MB once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.engine.models.catalogue import load
from runtime.engine.models.patience import Patience
from runtime.engine.models.store import Store
from runtime.project.settings import DEFAULT_MODEL
from tests.engine.process import Engine, running_engine
from tests.hub.pulling import Told, pulled, sound

pytestmark = [pytest.mark.network, pytest.mark.anyio, pytest.mark.timeout(1200)]

# From the announcement of Supabase's AI inference, for a mean over tokens and length one.
TEXT = "Luke, I am your father"
BEGINNING = [-0.047715719789266586, -0.006132732145488262]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store into which the default model was pulled."""
    store = Store(tmp_path_factory.mktemp("models"))
    told = Told()
    card = pulled(store, DEFAULT_MODEL, told, patience=Patience())
    assert card.sha256 == load()[DEFAULT_MODEL].sha256
    assert f"{DEFAULT_MODEL} is pinned to revision {card.revision}" in told
    return store


@pytest.fixture(scope="module")
def engine(store: Store) -> Iterator[Engine]:
    with running_engine(Path(store.models_dir), DEFAULT_MODEL) as process:
        yield process


async def test_the_default_model_gives_the_published_vector(engine: Engine, store: Store) -> None:
    assert sound(store) == [DEFAULT_MODEL]
    async with engine.connect() as client:
        result = await client.embed(DEFAULT_MODEL, [TEXT])
    assert result.rows.shape == (1, 384)
    assert result.rows[0, :2].tolist() == pytest.approx(BEGINNING, abs=1e-4)


def test_the_quantised_weights_are_those_that_we_know(tmp_path: Path) -> None:
    store = Store(tmp_path)
    card = pulled(store, DEFAULT_MODEL, patience=Patience(), file="onnx/model_quantized.onnx")
    assert card.sha256 == load()[DEFAULT_MODEL].files["onnx/model_quantized.onnx"].sha256
    assert sound(store) == [DEFAULT_MODEL]
