"""Model folders and engine processes for the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runtime.engine.models.catalogue import EMBEDDED
from runtime.engine.models.prepare import prepare
from runtime.engine.models.store import Store

from .process import Engine, running_engine
from .tiny import write_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as its authors would publish it."""
    return write_folder(tmp_path_factory.mktemp("author") / "tiny")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A store with the model "tiny" in it."""
    folder = tmp_path_factory.mktemp("models")
    store = Store(folder, {})
    card = prepare(str(tiny_folder), store)
    Path(card.folder).rename(store.folder("tiny"))
    path = store.folder("tiny") / "card.json"
    facts = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(facts | {"name": "tiny"}))
    return folder


@pytest.fixture(scope="session")
def real_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the embedded model, converted once for all tests."""
    folder = tmp_path_factory.mktemp("real")
    prepare(EMBEDDED, Store(folder))
    return folder


@pytest.fixture(scope="session")
def engine(models_dir: Path) -> Iterator[Engine]:
    """An engine that most tests share."""
    with running_engine(models_dir) as process:
        yield process
