"""Make a model ready to load: convert it once, check it, keep it in the store."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from runtime.engine.models.bert import GRAPH, convert
from runtime.engine.models.card import Card, describe, read_card, read_json, write_card
from runtime.engine.models.leftovers import FORMER, SCRATCH, beside, discard
from runtime.engine.models.lock import locked
from runtime.engine.models.store import Store, card_of
from runtime.engine.models.verify import inventory, sha256_of
from runtime.errors import ModelNotFound, StartError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done, bytes in all; the last call has them equal."""

GRAPHS = (GRAPH, f"onnx/{GRAPH}")
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
CONFIGS = ("config.json", "sentence_bert_config.json", "tokenizer_config.json", "1_Pooling/config.json")
"""What describes a model; all but the first may be missing."""

_PROBED = 2048  # tokens; of more than that, attention would take gigabytes


class Source(NamedTuple):
    """The files that a model is made of.

    Attributes:
        weights: a graph or `model.safetensors`, inside `folder`.
        ours: nobody else writes there, so that files need not be copied.
    """

    folder: Path
    weights: str
    ours: bool = False

    @property
    def files(self) -> Iterator[Path]:
        """The weights; with a graph come the files beside it that hold its tensors."""
        path = self.folder / self.weights
        return (found for found in path.parent.iterdir() if found == path or belongs(found.name, path.name))


def belongs(path: str, graph: str) -> bool:
    """Whether this file holds tensors of the graph: `model.onnx_data`, `model.onnx.data` …"""
    rest = path.removeprefix(graph)
    plain = rest.isprintable() and "/" not in rest
    return path.startswith(graph) and rest.startswith(("_data", ".data")) and plain


def _in_silence(step: str, done: int, total: int) -> None:
    pass


def prepare(name: str, store: Store, progress: Progress = _in_silence) -> Card:
    """The card of a model that can be loaded as it is; `card.folder` has its files.

    At once when there is nothing to do. Otherwise it takes seconds; processes that ask for
    the same model wait for each other, and what is half done is never seen.

    Args:
        name: a model of the store, or the absolute path of a model folder: one with
            `model.onnx` is used in place, one with a BERT encoder's `model.safetensors`
            is converted into the store's cache. Both need `tokenizer.json` and `config.json`.

    Raises:
        ModelNotFound: there is no such model.
        StartError: a file is missing, broken or not supported, or the disk refuses.
    """
    if os.path.isabs(name):
        return _prepare_folder(Path(name), store, progress)
    card, folder = store.get(name), store.package_folder(name)
    if folder is None:
        return card
    entry = store.catalogue[name]
    return keep(card_of(name, entry), Source(folder, entry.source.file), store.folder(name), progress)


def describe_folder(folder: Path, name: str, file: str = "") -> tuple[Card, Source]:
    """What a model folder says of itself, and its weights: a graph if it has one.

    Args:
        file: the weights to take; empty: the usual ones.

    Raises:
        ModelNotFound: there is no such folder.
        StartError: a file is missing, broken or not supported.
    """
    if not folder.is_dir():
        raise ModelNotFound(f"There is no model folder {str(folder)!r}")
    card = describe(folder, name)
    read_json(folder / TOKENIZER)
    usual = (*GRAPHS, WEIGHTS)
    for weights in (file,) if file else usual:
        if (folder / weights).is_file():
            return card, Source(folder, weights)
    raise StartError(
        f"The model folder has no {file}" if file else f"The model folder has neither {GRAPH} nor {WEIGHTS}",
        where=str(folder),
        remedy="copy the whole model folder; PyTorch's .bin files are not read",
    )


def _prepare_folder(folder: Path, store: Store, progress: Progress) -> Card:
    card = read_card(folder)
    if card is not None:
        return card
    card, source = describe_folder(folder, str(folder))
    if source.weights in GRAPHS:
        return msgspec.structs.replace(card, graph=source.weights, folder=str(folder))
    return keep(card, source, store.cache_folder(folder), progress)


def keep(wanted: Card, source: Source, target: Path, progress: Progress) -> Card:
    """`target`'s card, after making it from `source` unless that was done before.

    Raises:
        StartError: a file is missing, broken or not supported, or the disk refuses.
    """
    stamp = _stamp(wanted, source.folder)
    card = read_card(target)
    if card is not None and card.stamp == stamp:
        return card
    try:
        with locked(target):
            card = read_card(target)  # somebody else may have made it meanwhile
            if card is None or card.stamp != stamp:
                make(msgspec.structs.replace(wanted, stamp=stamp), source, target, progress)
    except OSError as error:
        raise disk_refused(wanted.name, target, error) from error
    card = read_card(target)
    assert card is not None
    return card


def disk_refused(name: str, target: Path, error: OSError, done: str = "stored") -> StartError:
    """The error for what the disk said while a model was written, or something else done to it."""
    return StartError(
        f"The model {name} cannot be {done}: {error}",
        where=str(target),
        remedy="make room or allow writing there, or set [ai] models_dir to another folder",
    )


def make(card: Card, source: Source, target: Path, progress: Progress) -> None:
    """Make `target`, or make it anew, and see that it works before anybody finds it there.

    The caller holds the lock. A kill or a power cut at any time leaves the old one, the new
    one or none.

    Raises:
        StartError: a file is missing, broken, not the one of the card, or not supported.
        OSError: the disk refuses.
    """
    scratch = beside(target, SCRATCH)
    discard(scratch)  # of one that was killed
    scratch.mkdir()
    try:
        read_json(source.folder / TOKENIZER)
        card = _told(card, source)
        total = _fill(scratch, source, lambda done, total: progress(f"converting {card.name}", done, total))
        progress(f"checking {card.name}", total, total)
        write_card(scratch, msgspec.structs.replace(card, files=inventory(scratch)))
        _probe(scratch)
        _sync(*scratch.iterdir(), scratch)
        _replace(target, scratch)
    finally:
        with suppress(OSError):
            discard(scratch)


def _told(card: Card, source: Source) -> Card:
    """The card with what the weights say of themselves."""
    path = source.folder / source.weights
    digest = sha256_of(path)
    if card.sha256 and digest != card.sha256:
        raise StartError(
            f"The file is not the one we know: its sha256 is {digest}, not {card.sha256}",
            where=str(path),
            remedy="install the model again",
        )
    graph = GRAPH if source.weights == WEIGHTS else path.name
    return msgspec.structs.replace(card, sha256=digest, weights=source.weights, graph=graph)


def _fill(target: Path, source: Source, progress: Callable[[int, int], None]) -> int:
    """Put graph, weights and tokenizer into `target`; the bytes of the weights."""
    bring = _link if source.ours else shutil.copyfile
    bring(source.folder / TOKENIZER, target / TOKENIZER)
    size = (source.folder / source.weights).stat().st_size
    if source.weights == WEIGHTS:
        convert(source.folder, target, progress)
        progress(size, size)
    else:
        for path in source.files:
            bring(path, target / path.name)
    return size


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some filesystems have no links
        shutil.copyfile(source, target)


def _probe(folder: Path) -> None:
    """Load and run what was made, before anybody relies on it."""
    import numpy as np

    from runtime.engine.model import EmbeddingModel
    from runtime.engine.scheduler import Form

    card = read_card(folder)
    assert card is not None
    model = EmbeddingModel(card)
    longest = "word " * min(card.max_tokens, _PROBED)
    try:
        texts = model.encode(["Is this model whole?", longest])
        (vector,), _ = (model.infer([text.ids], [Form()]) for text in texts)
    except Exception as error:  # the library raises bare Exception and classes of its own
        raise StartError(
            f"The model {card.name} does not read texts of {card.max_tokens} tokens, as it should: {error}",
            where=str(folder),
            remedy="use another export of it, or correct the maximum in its configuration",
        ) from error
    if vector.shape != (1, card.dimensions) or not np.isclose(np.linalg.norm(vector), 1, atol=1e-3):
        raise StartError(
            f"The model {card.name} gives no usable vectors: {vector.shape[1]} numbers for a text"
            f" instead of {card.dimensions}, or none at all",
            where=str(folder),
            remedy="install the model again, or use another export of it",
        )


def _stamp(card: Card, source: Path) -> str:
    """A digest of what is wanted and of the source's files, by size and time of change."""
    digest = hashlib.sha256(msgspec.json.encode(card))
    for name in (*GRAPHS, WEIGHTS, TOKENIZER, *CONFIGS):
        path = source / name
        if path.is_file():
            facts = path.stat()
            digest.update(f"\n{name} {facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _sync(*paths: Path) -> None:
    """Have files on disk before their name is, and names in time: a power cut leaves all or nothing."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(target: Path, made: Path) -> None:
    old = beside(target, FORMER)
    if os.path.lexists(target):
        discard(old)
        os.rename(target, old)
    os.rename(made, target)
    _sync(target.parent)
    with suppress(OSError):  # the new one is there, which counts
        discard(old)
