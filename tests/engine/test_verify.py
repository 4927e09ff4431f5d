"""Damage to a model's files is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.engine.models.card import Card
from runtime.engine.models.prepare import prepare
from runtime.engine.models.store import Store
from runtime.engine.models.verify import faults, inventory

from .tiny import write_folder


@pytest.fixture
def card(tmp_path: Path) -> Card:
    folder = write_folder(tmp_path / "mine")
    return prepare(str(folder), Store(tmp_path / "models", {}))


def test_the_card_has_every_file_but_itself(card: Card) -> None:
    folder = Path(card.folder)
    assert {file.path for file in card.files} == {path.name for path in folder.iterdir()} - {"card.json"}
    (folder / ".card.json").write_text("of a card that was being written")
    assert inventory(folder) == card.files
    assert faults(card) == []


def test_every_kind_of_damage_has_its_words(card: Card) -> None:
    folder = Path(card.folder)
    graph, weights, _, tokenizer = (folder / file.path for file in card.files)
    graph.unlink()
    graph.mkdir()
    content = bytearray(weights.read_bytes())
    content[7] ^= 1
    weights.write_bytes(content)
    tokenizer.unlink()
    size = card.files[0].size
    assert faults(card) == [
        f"model.onnx has {graph.stat().st_size} bytes instead of {size}",
        "model.onnx.data has another content than it had",
        "tokenizer.json is missing",
    ]


def test_a_file_that_cannot_be_read_is_damage(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("runtime.engine.models.verify.sha256_of", refused)
    assert faults(card)[0] == "model.onnx cannot be read: Permission denied"
