"""How a damaged model comes back."""

from __future__ import annotations

import os

from runtime.engine.models.card import Card
from runtime.engine.models.prepare import GRAPHS, WEIGHTS
from runtime.engine.models.store import Store


def repair(store: Store, card: Card) -> str:
    """The commands that bring a damaged model back; one of a folder comes back by itself."""
    if os.path.isabs(card.name):
        return f"functions models remove {card.name}"
    kind, _, place = card.source.partition(" ")
    again = f"functions models prepare {card.name}"
    if kind == "hub":
        known = {name: entry for name, entry in store.catalogue.items() if str(entry.source) == card.source}
        what = place if card.name == place else next(iter(known), place)
        usual = (known[what].source.file,) if what in known else (*GRAPHS, WEIGHTS)
        again = f"functions models pull {what}" + (f" --name {card.name}" if card.name != what else "")
        return again + (f" --file {card.weights}" if card.weights not in usual else "")
    if kind == "folder":
        again = f"functions models pull {place} --name {card.name}"
    return f"functions models remove {card.name}, then {again}"
