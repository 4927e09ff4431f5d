"""What is known of a model folder: its card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import msgspec

from runtime.engine.models.catalogue import Kind, Pooling
from runtime.engine.models.disk import sync
from runtime.errors import StartError
from runtime.frames import ModelCard

CARD = "card.json"
SCRATCH_CARD = f".{CARD}"
"""The card while it is written; a kill leaves it."""
PROMPTS = "config_sentence_transformers.json"
SENTENCES = "sentence_bert_config.json"
MODULES = "modules.json"
FORMAT = 3
"""Of the folders that we prepare. With a card of another one, what came from a package or a folder
is prepared again; a pulled model is not found until it is pulled again."""

SHORTEST = 3
"""A model that reads fewer tokens reads no text: two are the special ones around it."""

_LONGEST = 1_000_000  # some files say "no limit" with a number of thirty digits
_NO_WORD = 512  # what most encoders have been trained on

_DONE_HERE = {"Transformer", "Pooling", "Normalize"}  # of what sentence-transformers strings together

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


class Variant(msgspec.Struct, frozen=True):
    """A graph of ours that takes texts of any lengths, at one precision.

    Attributes:
        precision: "fp32" or "int8".
        graph: its file, relative to the model's folder.
        mean: cosine between its vectors and those of "fp32", over some sixty texts; of a
            cross-encoder, the correlation of its scores with those of "fp32".
        least: the smallest of them.
    """

    precision: str
    graph: str
    mean: float = 1.0
    least: float = 1.0


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
        prefix: put before every text.
        query_prefix: put before a question instead.
        lowercase: texts are read in small letters.
        kind: what it gives: vectors of texts, or scores of pairs of texts (a cross-encoder).
        matryoshka: lengths that its vectors may be cut to; empty: none but their own.
        centred: a vector's mean is subtracted from it before it is cut.
        graph: the ONNX file, relative to `folder`, that takes a rectangle of tokens.
        variants: graphs that pack texts of any lengths; none where `graph` is not of our making.
        files: everything in `folder` but the card itself.
        folder: absolute; known by where the card was found, never stored in it.
    """

    name: str
    dimensions: _Count
    max_tokens: Annotated[int, msgspec.Meta(ge=SHORTEST, le=_LONGEST)]
    pooling: Pooling = "mean"
    prefix: str = ""
    query_prefix: str = ""
    lowercase: bool = False
    source: str = ""
    revision: str = ""
    licence: str = ""
    weights: str = ""
    sha256: str = ""
    stamp: str = ""
    kind: Kind = "embedding"
    matryoshka: tuple[_Count, ...] = ()
    centred: bool = False
    graph: str = "model.onnx"
    variants: tuple[Variant, ...] = ()
    files: tuple[StoredFile, ...] = ()
    format: int = FORMAT
    folder: str = ""

    @property
    def prepared(self) -> bool:
        """It can be loaded as it is."""
        return bool(self.folder)

    @property
    def packs(self) -> bool:
        """Its graphs take texts of any lengths at once."""
        return bool(self.variants)

    def variant(self, precision: str) -> Variant | None:
        """The graph of this precision, if there is one."""
        return next((found for found in self.variants if found.precision == precision), None)

    def graph_of(self, precision: str) -> str:
        """The graph to load.

        Raises:
            StartError: there is none of this precision.
        """
        if (found := self.variant(precision)) is not None:
            return found.graph
        if precision == "fp32":
            return self.graph
        raise StartError(
            f"The model {self.name} is not prepared at precision {precision!r}",
            where=self.folder,
            remedy='set precision = "fp32", or prepare it anew',
        )

    def same_weights(self, other: Card) -> bool:
        """Whether it is the same model, whatever else has been made of it since."""
        strip = partial(msgspec.structs.replace, variants=(), files=())
        return bool(strip(self) == strip(other))

    def frame(self) -> ModelCard:
        """What other processes must know of it."""
        return ModelCard(self.name, self.dimensions, self.max_tokens, self.kind)


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
    graphs = [card.graph, *(variant.graph for variant in card.variants)]
    paths = [*graphs, *(file.path for file in card.files)]
    inside = all(not path.startswith("/") and ".." not in path.split("/") for path in paths)
    return card.format == FORMAT and inside and "".join([card.licence, card.revision, *paths]).isprintable()


def write_card(folder: Path, card: Card) -> None:
    """Store the card beside its model; nobody sees half of it, not even after a power cut."""
    stored = msgspec.structs.replace(card, folder="")
    scratch = folder / SCRATCH_CARD
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(stored), indent=2))
    sync(scratch)
    os.replace(scratch, folder / CARD)
    sync(folder)


def describe(folder: Path, name: str) -> Card:
    """A card made from the files that model authors publish beside their weights.

    Raises:
        StartError: a file is missing or broken, or says something that we cannot do.
    """
    config = read_json(folder / "config.json")
    _check_modules(folder / MODULES)
    dimensions, max_tokens = _dimensions(config), _max_tokens(folder, config)
    prefix, query_prefix = _prefixes(folder)
    if not _is_count(dimensions):
        raise _unfit(folder, "does not say its hidden_size")
    if max_tokens < SHORTEST:
        raise _unfit(folder, f"says that it reads no text of more than {max_tokens} tokens")
    return Card(
        name=name,
        dimensions=dimensions,
        max_tokens=max_tokens,
        pooling=_pooling(folder, prompted=bool(prefix or query_prefix)),
        prefix=prefix,
        query_prefix=query_prefix,
        lowercase=read_json(folder / SENTENCES, optional=True).get("do_lower_case") is True,
        kind="ranking" if is_scored(config) else "embedding",
        source=f"folder {folder}",
    )


def _check_modules(path: Path) -> None:
    """See that what comes after the encoder is nothing that would be left out in silence."""
    try:
        modules = json.loads(path.read_bytes())
        kinds = [module["type"].rpartition(".")[2] for module in modules]
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise StartError(
            f"Cannot be read: {error}", where=str(path), remedy="copy or install the model again"
        ) from error
    if others := [kind for kind in kinds if kind not in _DONE_HERE]:
        raise StartError(
            f"The model has a layer {others[0]!r} behind its encoder, which is not supported",
            where=str(path),
            remedy="use a model of an encoder and pooling alone",
        )


def is_scored(config: Mapping[str, Any]) -> bool:
    """Whether it is a model that gives one number for a pair of texts (a cross-encoder)."""
    architectures, labels = config.get("architectures"), config.get("id2label")
    names = architectures if isinstance(architectures, list) else []
    classifies = any(str(name).endswith("ForSequenceClassification") for name in names)
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels")
    return classifies and count == 1


def unused_positions(config: Mapping[str, Any]) -> int:
    """How many rows of the table of positions come before that of a text's first token."""
    match config.get("model_type"), config.get("pad_token_id"):
        case "roberta" | "xlm-roberta", int(padding):
            return max(padding, 0) + 1
        case "roberta" | "xlm-roberta" | "mpnet", _:
            return 2
    return 0


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
    authors = read_json(folder / SENTENCES, optional=True).get("max_seq_length")
    if not _is_count(authors):
        authors = read_json(folder / "tokenizer_config.json", optional=True).get("model_max_length")
    positions = config.get("max_position_embeddings")
    if _is_count(positions):
        positions -= unused_positions(config)
    told = (authors, positions, config.get("n_positions"), config.get("max_trained_positions"))
    return min(filter(_is_count, told), default=_NO_WORD)


def _dimensions(config: Mapping[str, Any]) -> object:
    if is_scored(config):
        return 1
    return next((config[key] for key in ("hidden_size", "dim", "n_embd") if key in config), None)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= _LONGEST


def _prefixes(folder: Path) -> tuple[str, str]:
    """What goes before a text, and what before a question, as sentence-transformers has it: the
    usual prompt is for texts alone."""
    told = read_json(folder / PROMPTS, optional=True)
    prompts = told.get("prompts")
    if not isinstance(prompts, dict):
        return "", ""
    by_name = {name: text for name, text in prompts.items() if isinstance(text, str)}
    usual = [told.get("default_prompt_name"), "document", "passage", "corpus"]
    prefix = next((by_name[name] for name in usual if by_name.get(name)), "")
    return prefix, by_name.get("query", "")


def _pooling(folder: Path, *, prompted: bool) -> Pooling:
    """Mean unless the folder says otherwise, as sentence-transformers has it."""
    path = folder / "1_Pooling" / "config.json"
    config = read_json(path, optional=True)
    if prompted and config.get("include_prompt") is False:
        raise StartError(
            "Pooling leaves a prompt's tokens out (include_prompt is false), which is not supported",
            where=str(path),
            remedy="use a model whose prompts count, or one without prompts",
        )
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
