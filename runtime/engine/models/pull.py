"""Bring a model into the store: from a hub, from an installed package, or from a folder.

What is downloaded lies in a folder of its own until all of it is there and checked; that
folder survives whatever ends the pull, and the next one goes on from it. The store's own
folder then appears in one step, after the model has run once.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from runtime.engine.models.card import Card, describe, read_card
from runtime.engine.models.catalogue import Entry, HubSource
from runtime.engine.models.download import download, had
from runtime.engine.models.graphs import check_config
from runtime.engine.models.hub import Hub, no_network, offline
from runtime.engine.models.leftovers import PARTIAL, beside, discard, leftovers, sweep
from runtime.engine.models.listing import Listing, RemoteFile
from runtime.engine.models.lock import locked
from runtime.engine.models.patience import Patience, Say
from runtime.engine.models.prepare import (
    CONFIGS,
    GRAPHS,
    ONE_FILE,
    SHARDS,
    TOKENIZER,
    WEIGHTS,
    Progress,
    Source,
    belongs,
    describe_folder,
    disk_refused,
    keep,
    make,
    prepare,
    usual_weights,
)
from runtime.engine.models.store import Store, card_of
from runtime.engine.models.verify import faults, sha256_of
from runtime.errors import HubError, ModelNotFound, StartError, UsageError

_SHOWN = 10  # names of files in a message


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to pull from a hub.

    Attributes:
        name: what the store shall call it.
        revision: a branch, a tag or a commit; empty: the one that is here, the catalogue's,
            or the newest.
        file: the graph or weights, inside the repository; empty: the catalogue's if it is there,
            or the usual.
        entry: what the catalogue says, if the name is in it.
    """

    name: str
    repository: str
    revision: str = ""
    file: str = ""
    entry: Entry | None = None

    @property
    def source(self) -> str:
        """What the card says of where the model came from."""
        return f"hub {self.repository}"


def order(store: Store, what: str, *, revision: str = "", name: str = "", file: str = "") -> Order | None:
    """What `NAME`, `NAME@REVISION`, `OWNER/NAME` or `OWNER/NAME@REVISION` asks for.

    None: the catalogue has it from a package.

    Raises:
        UsageError: nothing is known by that name, or the wishes contradict one another.
    """
    what, _, after = what.partition("@")
    if after and revision and after != revision:
        raise UsageError(f"Two revisions are named, {after} and {revision}", remedy="name one")
    revision = revision or after
    _check_file(file)
    name = name or what
    _check_name(store, name)
    entry = store.catalogue.get(what)
    if name != what and name in store.catalogue:
        raise UsageError(f"{name} is the name of another model", remedy="choose another --name")
    if entry is None:
        return _of_repository(store, Order(name=name, repository=what, revision=revision, file=file))
    if not isinstance(entry.source, HubSource):
        if name != what:
            raise UsageError(f"{what} is known by its own name", remedy="leave --name away")
        return None
    source = entry.source
    return Order(
        name=name,
        repository=source.repository,
        revision=revision or source.revision,
        file=file,
        entry=entry,
    )


def _of_repository(store: Store, found: Order) -> Order:
    if "/" not in found.repository:
        raise UsageError(
            f"The catalogue has no model {found.repository[:80]!r}; it has"
            f" {', '.join(sorted(store.catalogue))}",
            remedy="write OWNER/NAME for a repository of the hub, and ./FOLDER for a folder",
        )
    _check_name(store, found.repository)
    return found


def _check_name(store: Store, name: str) -> None:
    try:
        store.folder(name)
    except ModelNotFound as error:
        raise UsageError(error.message) from error


def _check_free(store: Store, name: str, source: str) -> None:
    old = read_card(store.folder(name))
    if old is not None and (old.name, old.source) != (name, source):
        raise UsageError(
            f"The store has {old.name} of another source: {old.source}",
            remedy=f"choose another --name, or first: functions models remove {name}",
        )


def _check_file(file: str) -> None:
    inside = file.isprintable() and not {"", ".", ".."} & set(file.split("/"))
    if file and file != WEIGHTS and not (inside and file.endswith(".onnx")):
        raise UsageError(
            f"{file!r} cannot be used",
            where="--file",
            remedy=f"name an .onnx file of the repository, or {WEIGHTS}",
        )


# --- from a hub ------------------------------------------------------------------------------


def pull(wanted: Order, store: Store, progress: Progress, say: Say, patience: Patience | None = None) -> Card:
    """The card of the model, which is in the store and whole then.

    Where it is there already, nothing is asked of the network. Processes that pull the same
    model wait for each other, and the later ones find it done.

    Args:
        say: told what a person should know: waits, the revision.

    Raises:
        HubError: the hub does not give it, or gives something else.
        StartError: it cannot be used, or the disk refuses.
    """
    _check_free(store, wanted.name, wanted.source)
    card, target = _here(wanted, store), store.folder(wanted.name)
    if card is not None:
        _tidy(target)
        return card
    if offline():
        raise no_network(wanted.name)
    try:
        with locked(target, lambda: say(f"another process works on {wanted.name}: waiting for it")):
            card = _here(wanted, store)  # the other one may have brought it
            if card is not None:
                return card
            with Hub(patience or Patience(), say) as hub:
                return _Pull(wanted, store, hub, progress, say).run()
    except OSError as error:
        raise disk_refused(wanted.name, target, error) from error


def _here(wanted: Order, store: Store) -> Card | None:
    """The model's card, if the store has it as it is wanted, and undamaged."""
    card = _stored(wanted, store)
    if card is None or wanted.revision not in {"", card.revision} or faults(card):
        return None
    return card


def _stored(wanted: Order, store: Store) -> Card | None:
    card = read_card(store.folder(wanted.name))
    if card is None or (card.name, card.source) != (wanted.name, wanted.source):
        return None
    asked = {wanted.file} if wanted.file else {card.weights}
    if wanted.entry is not None and not wanted.file:
        asked = {wanted.entry.source.file, WEIGHTS, *GRAPHS}
    return card if card.weights in asked else None


def _tidy(target: Path) -> None:
    """Remove what a pull that was killed in its last step left, unless another is at work there."""

    def leave() -> None:
        raise BlockingIOError

    if leftovers(target):
        with suppress(OSError), locked(target, leave):
            sweep(target)


class _Pull:
    """One pull, under the lock."""

    def __init__(self, wanted: Order, store: Store, hub: Hub, progress: Progress, say: Say) -> None:
        self._wanted, self._store, self._hub = wanted, store, hub
        self._progress, self._say = progress, say
        self._target = store.folder(wanted.name)
        self._partial = beside(self._target, PARTIAL)

    def run(self) -> Card:
        wanted = self._wanted
        old = _stored(wanted, self._store)
        revision = wanted.revision or (old.revision if old else "")
        listing = self._hub.list(wanted.repository, revision)
        if old and old.revision == listing.revision and not faults(old):
            return old
        if not revision:
            self._say(f"{wanted.name} is pinned to revision {listing.revision}")
        self._clear_the_way()
        weights, files = self._choose(listing)
        try:
            card = self._download(listing, weights, files)
            make(card, Source(self._partial, weights, ours=True), self._target, self._progress)
        except HubError:
            raise  # what came so far is kept
        except StartError:
            sweep(self._target)  # all of it came, and is of no use
            raise
        sweep(self._target)
        made = read_card(self._target)
        assert made is not None
        if wanted.entry is not None and not card.sha256:
            self._say(f"{wanted.name} had no digest to be compared with; {weights} has sha256 {made.sha256}")
        return made

    def _choose(self, listing: Listing) -> tuple[str, list[RemoteFile]]:
        """The weights, and all files that are needed, those that say what the model is first."""
        has = listing.files
        missing = [path for path in (TOKENIZER, CONFIGS[0]) if path not in has]
        if missing:
            raise self._unfit(listing, missing)
        usual = self._usual(listing)
        weights = next((path for path in usual if path in has), None)
        if weights is None:
            raise self._unfit(listing, usual)
        small = [has[path] for path in (TOKENIZER, *CONFIGS) if path in has]
        beside = (has[path] for path in sorted(has) if path == weights or belongs(path, weights))
        return weights, [*small, *(self._as_known(file) for file in beside)]

    def _usual(self, listing: Listing) -> tuple[str, ...]:
        """Weights to look for, the best first."""
        wanted, config = self._wanted, CONFIGS[0]
        if wanted.file:
            return (wanted.file,)
        if wanted.entry is not None:
            return (wanted.entry.source.file, WEIGHTS, *GRAPHS)
        target = self._partial / config
        target.parent.mkdir(parents=True, exist_ok=True)
        download(
            self._hub, wanted.repository, listing.revision, listing.files[config], target, lambda size: None
        )
        return usual_weights(target)

    def _unfit(self, listing: Listing, missing: Sequence[str]) -> HubError:
        graphs = ", ".join([path for path in listing.files if path.endswith(".onnx")][:_SHOWN])
        why = f"has no {' or '.join(missing)} whose size and digest the hub tells"
        remedy = "choose a model with an ONNX export"
        if WEIGHTS in missing and SHARDS in listing.files:
            why, remedy = "has its weights in several files, which is not supported", ONE_FILE
        return HubError(
            f"{self._wanted.repository} {why}",
            where=self._hub.address,
            remedy=f"choose one with --file: {graphs}" if graphs else remedy,
        )

    def _as_known(self, file: RemoteFile) -> RemoteFile:
        """The file with the digest that we know, which the hub's own word does not change."""
        entry = self._wanted.entry
        known = entry.known(file.path) if entry else None
        if known is None or not known.sha256:
            return file
        if known.size != file.size or file.sha256 not in {"", known.sha256}:
            raise HubError(
                f"The hub offers another {file.path} than the one we know: {file.size} bytes with sha256"
                f" {file.sha256 or 'not told'}, not {known.size} with {known.sha256}",
                where=f"{self._hub.address}/{self._wanted.repository}",
                remedy=f"to have it all the same, under its own name: functions models pull"
                f" {self._wanted.repository}",
            )
        return msgspec.structs.replace(file, sha256=known.sha256)

    def _download(self, listing: Listing, weights: str, files: Sequence[RemoteFile]) -> Card:
        self._sweep(files)
        total, done = sum(file.size for file in files), 0
        step = f"pulling {self._wanted.name} ({megabytes(total)} from {self._hub.address})"
        self._check_room(files, weights)
        card: Card | None = None
        for file in files:
            if card is None and file.path.startswith(weights):
                card = self._describe(listing, weights)  # before the bulk of it comes
            target = self._partial / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            told = partial(self._tell, step, done, total)
            download(self._hub, self._wanted.repository, listing.revision, file, target, told)
            done += file.size
        assert card is not None
        return card

    def _tell(self, step: str, before: int, total: int, size: int) -> None:
        self._progress(step, before + size, total)

    def _describe(self, listing: Listing, weights: str) -> Card:
        wanted = self._wanted
        if weights == WEIGHTS:
            check_config(self._partial / CONFIGS[0])
        if wanted.entry is not None:
            card = card_of(wanted.name, wanted.entry)
            known = wanted.entry.known(weights)
            card = msgspec.structs.replace(card, sha256=known.sha256 if known else "")
        else:
            card = describe(self._partial, wanted.name)
            card = msgspec.structs.replace(card, source=wanted.source, licence=listing.licence)
        return msgspec.structs.replace(card, revision=listing.revision)

    def _clear_the_way(self) -> None:
        """Remove what stands where the folder of what has come so far has to be."""
        if self._partial.is_symlink() or not self._partial.is_dir():
            discard(self._partial)

    def _sweep(self, files: Sequence[RemoteFile]) -> None:
        """Remove what an earlier pull of something else left."""
        wanted = {self._partial / file.path for file in files}
        for path in [*self._partial.rglob("*")]:
            if path.is_symlink() or (path not in wanted and not path.is_dir()):
                path.unlink()

    def _check_room(self, files: Sequence[RemoteFile], weights: str) -> None:
        needed = sum(file.size - had(self._partial / file.path, file) for file in files)
        if weights == WEIGHTS:  # the graph that is made of them; of half-precision weights it is larger
            needed += sum(file.size for file in files)
        free = shutil.disk_usage(self._store.models_dir).free
        if free < needed:
            raise HubError(
                f"There is no room for {self._wanted.name}: it needs {megabytes(needed)}, and"
                f" {megabytes(free)} are free",
                where=str(self._store.models_dir),
                remedy="make room, or set [ai] models_dir to another folder",
            )


def megabytes(size: int) -> str:
    """For people."""
    if size >= 10**10:
        return f"{size / 1e9:.0f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


# --- from elsewhere --------------------------------------------------------------------------


def pull_folder(folder: Path, name: str, store: Store, progress: Progress, file: str = "") -> Card:
    """Copy a model folder into the store, so that sessions find it by name.

    A name of the catalogue is given only to the very model that it knows.

    Raises:
        ModelNotFound: there is no such folder.
        UsageError: the name is another model's, or cannot be one.
        StartError: a file is missing, broken or not supported, or the disk refuses.
    """
    _check_name(store, name)
    _check_file(file)
    card, source = describe_folder(folder, name, file)
    entry = store.catalogue.get(name)
    if entry is not None:
        known = entry.known(file or entry.source.file)
        card = card_of(name, entry)
        card = msgspec.structs.replace(card, sha256=known.sha256 if known else "")
        _check_is(card, folder / source.weights)
    card = msgspec.structs.replace(card, source=f"folder {folder}")
    _check_free(store, name, card.source)
    return keep(card, source, store.folder(name), progress)


def _check_is(card: Card, weights: Path) -> None:
    if card.sha256 and sha256_of(weights) != card.sha256:
        raise UsageError(
            f"{card.name} is a model of the catalogue, and these weights are another's",
            where=str(weights),
            remedy="choose another --name",
        )


def pull_package(name: str, store: Store, progress: Progress) -> Card:
    """Prepare a model that an installed package brings.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        return prepare(name, store, progress)
    except ModelNotFound as error:
        raise UsageError(error.message) from error
