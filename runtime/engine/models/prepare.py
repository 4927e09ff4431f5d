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

from runtime.engine.models.card import (
    MODULES,
    PROMPTS,
    SENTENCES,
    Card,
    Variant,
    describe,
    read_card,
    read_json,
    write_card,
)
from runtime.engine.models.disk import sync
from runtime.engine.models.graphs import GRAPH, PACKED, check_config, convert
from runtime.engine.models.leftovers import FORMER, SCRATCH, beside, discard
from runtime.engine.models.lock import locked
from runtime.engine.models.precision import INT8, add_int8
from runtime.engine.models.store import Store, card_of
from runtime.engine.models.verify import inventory, sha256_of
from runtime.errors import ModelNotFound, StartError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done, bytes in all; the last call has them equal."""

GRAPHS = (GRAPH, f"onnx/{GRAPH}")
WEIGHTS = "model.safetensors"
SHARDS = f"{WEIGHTS}.index.json"
ONE_FILE = 'make one file of them: model.save_pretrained(FOLDER, max_shard_size="100GB")'
"""What to do about weights in several files."""
TOKENIZER = "tokenizer.json"
CONFIGS = (
    "config.json",
    SENTENCES,
    "tokenizer_config.json",
    "1_Pooling/config.json",
    MODULES,
    PROMPTS,
)
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


def usual_weights(config: Path) -> tuple[str, ...]:
    """What to look for in a model of this `config.json`, the best first.

    Of an encoder that we write graphs for, those are faster than anybody's export: they take
    texts of any lengths at once, and at every precision.
    """
    try:
        check_config(config)
    except StartError:
        return (*GRAPHS, WEIGHTS)
    return (WEIGHTS, *GRAPHS)


def _in_silence(step: str, done: int, total: int) -> None:
    pass


def prepare(name: str, store: Store, progress: Progress = _in_silence, precision: str = "fp32") -> Card:
    """The card of a model that can be loaded as it is; `card.folder` has its files.

    At once when there is nothing to do. Otherwise it takes seconds; processes that ask for
    the same model wait for each other, and what is half done is never seen.

    Args:
        name: a model of the store, or the absolute path of a model folder: one with an
            encoder's `model.safetensors` is converted into the store's cache, another with
            `model.onnx` is used in place. Both need `tokenizer.json` and `config.json`.
        precision: "int8" has a graph of 8 bits made beside the others; "bf16" needs none.

    Raises:
        ModelNotFound: there is no such model.
        StartError: a file is missing, broken or not supported, or the disk refuses.
    """
    card = _prepare(name, store, progress)
    if precision != INT8 or card.variant(INT8):
        return card
    progress(f"bringing {card.name} to 8 bits", 0, 1)
    try:
        card = add_int8(card, store)
    except OSError as error:
        raise StartError(
            f"The model {card.name} cannot be brought to 8 bits there: {error}",
            where=card.folder,
            remedy=f"run `functions models prepare {card.name}` as one who may write there, or make room",
        ) from error
    progress(f"bringing {card.name} to 8 bits", 1, 1)
    return card


def _prepare(name: str, store: Store, progress: Progress) -> Card:
    if os.path.isabs(name):
        return _prepare_folder(Path(name), store, progress)
    card, folder = store.get(name), store.package_folder(name)
    if folder is None:
        return card
    entry = store.catalogue[name]
    return keep(card_of(name, entry), Source(folder, entry.source.file), store.folder(name), progress)


def describe_folder(folder: Path, name: str, file: str = "") -> tuple[Card, Source]:
    """What a model folder says of itself, and its weights.

    Args:
        file: the weights to take; empty: the usual ones.

    Raises:
        ModelNotFound: there is no such folder.
        StartError: a file is missing, broken or not supported.
    """
    if not folder.is_dir():
        raise ModelNotFound(
            f"There is no model folder {str(folder)!r}\n  → check its path; `functions models list` shows the"
            " models that have a name"
        )
    card = describe(folder, name)
    read_json(folder / TOKENIZER)
    for weights in (file,) if file else usual_weights(folder / CONFIGS[0]):
        if (folder / weights).is_file():
            return card, Source(folder, weights)
    if not file and (folder / SHARDS).is_file():
        raise StartError(
            "The model's weights are in several files, which is not supported",
            where=str(folder),
            remedy=ONE_FILE,
        )
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
        try:
            _probe(scratch)
        except StartError as error:
            raise _without(scratch, error, target if source.ours else source.folder) from error
        sync(*scratch.iterdir(), scratch)
        _replace(target, scratch)
    finally:
        with suppress(OSError):
            discard(scratch)


def _without(scratch: Path, error: StartError, place: Path) -> StartError:
    """The error of a place that a person can look at."""
    return StartError(error.what.replace(str(scratch), str(place)), where=str(place), remedy=error.remedy)


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
    ours = source.weights == WEIGHTS
    return msgspec.structs.replace(
        card,
        sha256=digest,
        weights=source.weights,
        graph=GRAPH if ours else path.name,
        variants=(Variant("fp32", PACKED),) if ours else (),
    )


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
        first, second = (model.infer([text.ids], [Form(normalize=False)])[0] for text in texts)
    except Exception as error:  # the library raises bare Exception and classes of its own
        raise StartError(
            f"The model {card.name} does not read texts of {card.max_tokens} tokens, as it should: {error}",
            where=str(folder),
            remedy="use another export of it, or correct the maximum in its configuration",
        ) from error
    usable = [rows for rows in (first, second) if not isinstance(rows, Exception) and np.any(rows)]
    if [rows.shape for rows in usable] != [(1, card.dimensions)] * 2:
        raise StartError(
            f"The model {card.name} gives no usable vectors: {model.dimensions} numbers for a text"
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


def _replace(target: Path, made: Path) -> None:
    old = beside(target, FORMER)
    if os.path.lexists(target):
        discard(old)
        os.rename(target, old)
    os.rename(made, target)
    sync(target.parent)
    with suppress(OSError):  # the new one is there, which counts
        discard(old)
