"""What is known of a model folder: its card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import msgspec

from runtime.engine.models.catalogue import Pooling
from runtime.errors import StartError
from runtime.frames import ModelCard

CARD = "card.json"
FORMAT = 2
"""Of the folders that we prepare; a card of another format is prepared again."""


SHORTEST = 3
"""A model that reads fewer tokens reads no text: two are the special ones around it."""

_LONGEST = 1_000_000  # some files say "no limit" with a number of thirty digits
_NO_WORD = 512  # what most encoders have been trained on

_Count = Annotated[int, msgspec.Meta(gt=0, le=_LONGEST)]


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a prepared folder, as it was when it was made.

    Attributes:
        path: relative to the folder.
        size: in bytes.
    """

    path: str
    size: int
    sha256: str


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be loaded (or prepared first: then `folder` is empty).

    Attributes:
        dimensions: length of a vector.
        max_tokens: longest text, special tokens included; longer ones lose their end.
        source: where it came from, for people: "package …", "folder …", "hub OWNER/NAME".
        revision: the hub's commit, all 40 digits of it; empty for other sources.
        licence: as the catalogue or the hub names it.
        weights: the file that it was prepared from, inside its source.
        sha256: of that file.
        stamp: names the source's files as they were; others mean "prepare again".
        graph: the ONNX file, relative to `folder`.
        files: everything in `folder` but the card itself.
        folder: absolute; known by where the card was found, never stored in it.
    """

    name: str
    dimensions: _Count
    max_tokens: Annotated[int, msgspec.Meta(ge=SHORTEST, le=_LONGEST)]
    pooling: Pooling = "mean"
    prefix: str = ""
    source: str = ""
    revision: str = ""
    licence: str = ""
    weights: str = ""
    sha256: str = ""
    stamp: str = ""
    graph: str = "model.onnx"
    files: tuple[StoredFile, ...] = ()
    format: int = FORMAT
    folder: str = ""

    @property
    def prepared(self) -> bool:
        """It can be loaded as it is."""
        return bool(self.folder)

    def frame(self) -> ModelCard:
        """What other processes must know of it."""
        return ModelCard(self.name, self.dimensions, self.max_tokens)


_decoder = msgspec.json.Decoder(Card)


def read_card(folder: Path) -> Card | None:
    """The card of a prepared folder; None if it has none, one of another format, or one that
    nobody of ours can have written."""
    try:
        card = _decoder.decode((folder / CARD).read_bytes())
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    return msgspec.structs.replace(card, folder=str(folder)) if _is_ours(card) else None


def _is_ours(card: Card) -> bool:
    """Whether its words may be shown on a terminal, and its paths followed."""
    paths = [card.graph, *(file.path for file in card.files)]
    inside = all(not path.startswith("/") and ".." not in path.split("/") for path in paths)
    return card.format == FORMAT and inside and "".join([card.licence, card.revision, *paths]).isprintable()


def write_card(folder: Path, card: Card) -> None:
    """Store the card beside its model."""
    stored = msgspec.structs.replace(card, folder="")
    (folder / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(stored), indent=2))


def describe(folder: Path, name: str) -> Card:
    """A card made from the files that model authors publish beside their weights.

    Raises:
        StartError: a file is missing or broken, or says something that we cannot do.
    """
    config = read_json(folder / "config.json")
    dimensions, max_tokens = config.get("hidden_size"), _max_tokens(folder, config)
    if not _is_count(dimensions):
        raise _unfit(folder, "does not say its hidden_size")
    if max_tokens < SHORTEST:
        raise _unfit(folder, f"says that it reads no text of more than {max_tokens} tokens")
    return Card(
        name=name,
        dimensions=dimensions,
        max_tokens=max_tokens,
        pooling=_pooling(folder),
        source=f"folder {folder}",
    )


def _unfit(folder: Path, why: str) -> StartError:
    return StartError(
        f"The model's configuration {why}",
        where=str(folder / "config.json"),
        remedy="use a folder as sentence-transformers or transformers save one",
    )


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object from a model folder; empty if it is optional and not there.

    Raises:
        StartError: it is missing or broken.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        if optional:
            return {}
        raise StartError(
            f"The model folder has no {path.name}",
            where=os.fspath(path.parent),
            remedy="copy the whole model folder, with config.json and tokenizer.json",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise StartError(
            f"Cannot be read: {error}", where=os.fspath(path), remedy="copy or install the model again"
        ) from error
    if not isinstance(data, dict):
        raise StartError("Is no JSON object", where=os.fspath(path), remedy="copy or install the model again")
    return data


def _max_tokens(folder: Path, config: Mapping[str, Any]) -> int:
    authors = read_json(folder / "sentence_bert_config.json", optional=True).get("max_seq_length")
    if not _is_count(authors):
        authors = read_json(folder / "tokenizer_config.json", optional=True).get("model_max_length")
    told = filter(_is_count, (authors, config.get("max_position_embeddings")))
    return min(told, default=_NO_WORD)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= _LONGEST


def _pooling(folder: Path) -> Pooling:
    """Mean unless the folder says otherwise, as sentence-transformers has it."""
    path = folder / "1_Pooling" / "config.json"
    config = read_json(path, optional=True)
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    modes = [config["pooling_mode"]] if "pooling_mode" in config else flags
    match modes:
        case [] | ["mean"] | ["pooling_mode_mean_tokens"]:
            return "mean"
        case ["cls"] | ["pooling_mode_cls_token"]:
            return "cls"
    raise StartError(
        f"Pooling is {' and '.join(map(str, modes))}, which is not supported",
        where=str(path),
        remedy="use a model with mean or cls pooling",
    )
