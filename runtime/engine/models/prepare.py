"""Make a model ready to load: convert it once, check it, keep it in the store."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runtime.engine.models.bert import GRAPH, convert
from runtime.engine.models.card import Card, describe, read_card, read_json, write_card
from runtime.engine.models.store import Store, card_of
from runtime.errors import ModelNotFound, StartError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done, bytes in all; the last call has them equal."""

_GRAPHS = (GRAPH, f"onnx/{GRAPH}")
_WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer.json"
_SOURCES = (
    *_GRAPHS,
    _WEIGHTS,
    _TOKENIZER,
    "config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)


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
    card, source = store.get(name), store.package_folder(name)
    if source is None:
        return card
    wanted = card_of(name, store.catalogue[name])
    return _keep(wanted, source, store.folder(name), progress)


def _prepare_folder(source: Path, store: Store, progress: Progress) -> Card:
    if not source.is_dir():
        raise ModelNotFound(f"There is no model folder {str(source)!r}")
    card = read_card(source)
    if card is not None:
        return card
    card = describe(source, str(source))
    read_json(source / _TOKENIZER)
    graph = _find(source, _GRAPHS)
    if graph is not None:
        return msgspec.structs.replace(card, graph=graph, folder=str(source))
    if _find(source, (_WEIGHTS,)) is None:
        raise StartError(
            f"The model folder has neither {GRAPH} nor {_WEIGHTS}",
            where=str(source),
            remedy="copy the whole model folder; PyTorch's .bin files are not read",
        )
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    return _keep(card, source, store.cache_folder(digest), progress)


def _keep(wanted: Card, source: Path, target: Path, progress: Progress) -> Card:
    """`target`'s card, after making it from `source` unless that was done before."""
    stamp = _stamp(wanted, source)
    card = read_card(target)
    if card is not None and card.stamp == stamp:
        return card
    try:
        with _locked(target):
            card = read_card(target)  # somebody else may have made it meanwhile
            if card is None or card.stamp != stamp:
                _make(msgspec.structs.replace(wanted, stamp=stamp), source, target, progress)
    except OSError as error:
        raise StartError(
            f"The model {wanted.name} cannot be prepared: {error}",
            where=str(target),
            remedy="make room or allow writing there, or set [ai] models_dir to another folder",
        ) from error
    card = read_card(target)
    assert card is not None
    return card


def _make(card: Card, source: Path, target: Path, progress: Progress) -> None:
    scratch = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
    scratch.mkdir()
    try:
        read_json(source / _TOKENIZER)
        card = msgspec.structs.replace(card, sha256=_checked_digest(source, card.sha256))
        total = _fill(scratch, source, lambda done, total: progress(f"converting {card.name}", done, total))
        progress(f"checking {card.name}", total, total)
        write_card(scratch, card)
        _probe(scratch)
        _sync(scratch)
        _replace(target, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fill(target: Path, source: Path, progress: Callable[[int, int], None]) -> int:
    """Put graph, weights and tokenizer into `target`; the bytes of the weights."""
    shutil.copyfile(source / _TOKENIZER, target / _TOKENIZER)
    graph = _find(source, _GRAPHS)
    if graph is None:
        convert(source, target, progress)
        return (source / _WEIGHTS).stat().st_size
    folder = (source / graph).parent
    for path in folder.glob(f"{GRAPH}*"):  # weights may lie in files beside the graph
        shutil.copyfile(path, target / path.name)
    return (source / graph).stat().st_size


def _checked_digest(source: Path, expected: str) -> str:
    path = source / (_find(source, _GRAPHS) or _WEIGHTS)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and digest != expected:
        raise StartError(
            f"The file is not the one we know: its sha256 is {digest}, not {expected}",
            where=str(path),
            remedy="install the model again",
        )
    return digest


def _probe(folder: Path) -> None:
    """Load and run what was made, before anybody relies on it."""
    import numpy as np

    from runtime.engine.model import EmbeddingModel
    from runtime.engine.scheduler import Form

    card = read_card(folder)
    assert card is not None
    model = EmbeddingModel(card)
    (text,) = model.encode(["Is this model whole?"])
    (vector,) = model.infer([text.ids], [Form()])
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
    for name in _SOURCES:
        path = source / name
        if path.is_file():
            facts = path.stat()
            digest.update(f"\n{name} {facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _find(folder: Path, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if (folder / name).is_file()), None)


def _sync(folder: Path) -> None:
    """Have the files on disk before their name is: a power cut leaves all or nothing."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _replace(target: Path, made: Path) -> None:
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
        os.rename(made, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(made, target)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go when a process dies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
