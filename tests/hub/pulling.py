"""Pulling in tests: without long waits, and with a look at what is left."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from runtime.engine.model import EmbeddingModel
from runtime.engine.models.card import Card
from runtime.engine.models.patience import Patience
from runtime.engine.models.prepare import prepare
from runtime.engine.models.pull import order, pull
from runtime.engine.models.store import Store
from runtime.engine.models.verify import faults

QUICK = Patience(first_wait=0.005, longest_wait=2.0, silence=5.0)

IMPATIENT = msgspec.structs.replace(QUICK, silence=0.2)
"""For hubs that stay silent."""


class Told(list[str]):
    """What a person would have read."""

    def __contains__(self, words: object) -> bool:
        return any(str(words) in line for line in self)


def pulled(
    store: Store, what: str, told: list[str] | None = None, *, patience: Patience = QUICK, **wishes: str
) -> Card:
    """Pull it from the hub that the environment names."""
    wanted = order(store, what, **wishes)
    assert wanted is not None
    return pull(wanted, store, lambda *_: None, (told if told is not None else []).append, patience)


def sound(store: Store) -> list[str]:
    """The models of a store, all of which load and are whole; there is nothing else in view."""
    cards = [card for card in store.cards() if card.prepared]
    for card in cards:
        assert faults(card) == []
        assert EmbeddingModel(prepare(card.name, store)).dimensions == card.dimensions
    seen = {Path(card.folder).name for card in cards}
    assert {name for name in listed(store) if not name.startswith(".")} == seen
    return [card.name for card in cards]


def listed(store: Store) -> list[str]:
    """Everything in the store's folder but the locks."""
    if not store.models_dir.exists():
        return []
    return sorted(name for name in os.listdir(store.models_dir) if not name.endswith(".lock"))
