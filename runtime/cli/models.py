"""`functions models …`: what the store has. `pulling` has the commands that fill it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli import output
from runtime.cli.pulling import PATHS, absolute, prepare_model, pull_model
from runtime.cli.root import root_option
from runtime.cli.stores import ai_settings, open_store
from runtime.errors import ModelNotFound, UsageError

if TYPE_CHECKING:
    from runtime.engine.models.card import Card
    from runtime.engine.models.store import Store
    from runtime.project.settings import AI

HEADER = ("NAME", "SIZE", "TOKENS", "STATE", "SOURCE")
RANKS = "ranks"  # in place of the size of vectors

READY, UNPREPARED, ABSENT = "ready", "not prepared", "not here"


@click.group("models")
def command() -> None:
    """The embedding models of this machine.

    \b
    Examples:
      functions models list
      functions models pull gte-small
      functions models verify
    """


command.add_command(pull_model)
command.add_command(prepare_model)


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Those too that are known but not here yet.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for programs.")
@root_option
def list_models(everything: bool, as_json: bool, root: str | None) -> None:
    """List the models that `ai.Session` finds by name, with the size of their vectors and the tokens
    that they read at most.

    \b
    Examples:
      functions models list
      functions models list --all
      functions models list --json
    """
    store = open_store(root)
    cards = {card.name: card for card in store.cards()}
    if everything:
        cards = {name: absent(store, name) for name in store.catalogue} | cards
    if as_json:
        import json

        click.echo(json.dumps([describe(store, cards[name]) for name in sorted(cards)], indent=2))
    elif cards:
        output.table(HEADER, [row(store, cards[name]) for name in sorted(cards)])
        tell_unpinned(store, cards)
    else:
        output.note(f"no models in {store.models_dir}: `functions models list --all` shows those to be had")


@command.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@root_option
def info_of_model(name: str, as_json: bool, root: str | None) -> None:
    """Tell everything that is known of the model NAME, or of a folder: ./FOLDER.

    \b
    Examples:
      functions models info gte-small
      functions models info ./my-model
      functions models info gte-small --json
    """
    store = open_store(root)
    facts = details(store, find(store, name, or_known=True), ai_settings(root).precisions)
    if as_json:
        import json

        click.echo(json.dumps(facts, indent=2))
        return
    for line in output.align(told(facts)):
        click.echo(line)
    if wanted := impossible(facts, ai_settings(root)):
        output.note(f"it cannot run at {wanted}, as the configuration wants: it came as an ONNX graph")


@command.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@root_option
def verify_models(names: tuple[str, ...], root: str | None) -> int:
    """Read every file of the models NAME (all of them without one) and compare it with its digest.

    Of a folder, ./FOLDER, these are the files that the store has made of it.

    Exit code 1: a model is damaged.

    \b
    Examples:
      functions models verify
      functions models verify gte-small
    """
    store = open_store(root)
    cards = [find(store, name) for name in names] or [card for card in store.cards() if card.prepared]
    damaged = [card for card in cards if not intact(store, card)]
    unreadable = [] if names else nameless(store)
    for folder in unreadable:
        output.error(f"{folder} {why_nameless(folder)}")
    return 1 if damaged or unreadable else 0


@command.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@root_option
def remove_model(name: str, yes: bool, root: str | None) -> None:
    """Delete the model NAME from this machine, and what an unfinished pull left of it.

    For a folder, ./FOLDER, it is what the store has made of it; the folder itself stays.

    \b
    Examples:
      functions models remove gte-small
      functions models remove gte-small --yes
      functions models remove ./my-model
    """
    from runtime.engine.models.remove import removable, remove

    store = open_store(root)
    name = absolute(name) if name.startswith(PATHS) else name
    folders = removable(store, name)
    if not folders:
        if not os.path.isabs(name):
            find(store, name)
        raise UsageError(
            f"The store has no {name}", where=str(store.models_dir), remedy="functions models list"
        )
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("Nobody can be asked here", remedy=f"functions models remove {name} --yes")
        size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
        click.confirm(f"Delete {name} ({size / 1e6:.1f} MB) from {store.models_dir}?", abort=True, err=True)
    remove(store, name)
    click.echo(f"Removed {name}" + (f" from {store.models_dir}" if os.path.isabs(name) else ""))


def find(store: Store, name: str, *, or_known: bool = False) -> Card:
    """The card of a model, or of a folder; of one that is only in the catalogue too, if that will do.

    Raises:
        UsageError: there is none; the message names those that exist.
    """
    card = store.find(name)
    if card is None and or_known and name in store.catalogue:
        return absent(store, name)
    try:
        if name.startswith(PATHS):
            return card_of_folder(store, Path(absolute(name)))
        return card or store.get(name)
    except ModelNotFound as error:
        raise UsageError(error.message) from error


def card_of_folder(store: Store, folder: Path) -> Card:
    """What the store has made of a folder; before that, what the folder says of itself.

    Raises:
        ModelNotFound: there is no such folder.
        StartError: a file is missing, broken or not supported.
    """
    from runtime.engine.models.card import read_card
    from runtime.engine.models.prepare import describe_folder

    card = read_card(folder) or read_card(store.cache_folder(folder))
    return card or describe_folder(folder, str(folder))[0]


def intact(store: Store, card: Card) -> bool:
    """Whether the files are what they were; says so."""
    from runtime.engine.models.repair import repair
    from runtime.engine.models.verify import faults

    if not card.prepared:
        click.echo(f"{card.name}: {UNPREPARED}")
        return True
    found = faults(card)
    if found:
        output.error(f"{card.name} is damaged: {'; '.join(found)}\n  → {repair(store, card)}")
    else:
        click.echo(f"{card.name}: ok")
    return not found


def nameless(store: Store) -> list[Path]:
    """Folders of the store that could be a model's, and in which none is found."""
    if not store.models_dir.is_dir():
        return []
    named = {store.folder(card.name) for card in store.cards() if card.prepared}
    folders = (path for path in store.models_dir.iterdir() if path.is_dir() and store.is_for_model(path))
    return sorted(path for path in folders if path not in named)


def why_nameless(folder: Path) -> str:
    """What is wrong with the card of such a folder, and what to do."""
    from runtime.engine.models.card import CARD, FORMAT, read_json
    from runtime.errors import StartError

    again = "functions models pull (or prepare) does it again"
    try:
        card = read_json(folder / CARD)
    except StartError:
        return f"has no card that can be read\n  → delete the folder; {again}"
    if card.get("format", FORMAT) != FORMAT:
        return f"was prepared by another version of this program\n  → {again}"
    if isinstance(name := card.get("name"), str) and name.isprintable():
        return f"has the card of a model {name}, or a wrong one\n  → delete or rename the folder; {again}"
    return f"has a card that makes no sense\n  → delete the folder; {again}"


def absent(store: Store, name: str) -> Card:
    """What the catalogue knows of a model."""
    from runtime.engine.models.store import card_of

    return card_of(name, store.catalogue[name])


def tell_unpinned(store: Store, cards: Mapping[str, Card]) -> None:
    """Say of which models not here nobody knows yet what their files must be."""
    count = sum(not card.prepared and not card.sha256 for card in cards.values())
    if count:
        output.note(f"of {count} models not here no digest is known yet: the first pull pins what it gets")


def pin_of(card: Card) -> str:
    """What says that the weights are the right ones."""
    if card.prepared:
        return "to revision and sha256" if card.revision else "to sha256"
    return "to sha256" if card.sha256 else "not yet: the first pull pins what it gets"


def state(store: Store, card: Card) -> str:
    """One of `READY`, `UNPREPARED`, `ABSENT`."""
    if card.prepared:
        return READY
    return UNPREPARED if os.path.isabs(card.name) or store.package_folder(card.name) else ABSENT


def describe(store: Store, card: Card) -> dict[str, object]:
    """What `list --json` says of a model."""
    return {
        "name": card.name,
        "dimensions": card.dimensions,
        "max_tokens": card.max_tokens,
        "kind": card.kind,
        "state": state(store, card),
        "source": card.source,
        "folder": card.folder,
    }


def details(store: Store, card: Card, precisions: Mapping[str, str]) -> dict[str, object]:
    """What `info` says of a model."""
    entry = store.catalogue.get(card.name)
    files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in card.files]
    return describe(store, card) | {
        "revision": card.revision,
        "licence": card.licence,
        "pooling": card.pooling,
        "prefix": card.prefix,
        "query_prefix": card.query_prefix,
        "matryoshka": [*card.matryoshka],
        "stated": entry.stated if entry else "",
        "pinned": pin_of(card),
        "precision": precision_of(card, precisions),
        "loss": {
            variant.precision: {"mean": variant.mean, "least": variant.least}
            for variant in card.variants
            if variant.precision != "fp32"
        },
        "weights": card.weights,
        "sha256": card.sha256,
        "size": sum(file.size for file in card.files) or None,
        "files": files,
    }


def precision_of(card: Card, precisions: Mapping[str, str]) -> str | None:
    """What it runs at; None: what the configuration wants is not possible."""
    from runtime.engine.models.precision import INT8

    wanted = precisions.get(card.name, "fp32")
    return None if wanted == INT8 and card.prepared and not card.packs else wanted


def impossible(facts: Mapping[str, Any], settings: AI) -> str:
    """The precision that the configuration wants of a model which cannot have it; empty: it can."""
    return settings.precisions[facts["name"]] if facts["precision"] is None else ""


def told(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `info` says, line by line; of what is not known, nothing."""
    said = {"dimensions": "", "pooling": ""} if facts["kind"] == "ranking" else {}
    said["size"] = f"{facts['size']} bytes"
    said |= {name: repr(facts[name]) for name in ("prefix", "query_prefix") if facts[name]}
    said |= {"matryoshka": ", ".join(map(str, facts["matryoshka"])), "loss": loss_of(facts), "files": ""}
    lines = [(name.replace("_", " "), str(said.get(name, fact))) for name, fact in facts.items() if fact]
    lines += [
        ("file", f"{file['path']}  {file['size']} bytes  sha256 {file['sha256']}") for file in facts["files"]
    ]
    return [line for line in lines if line[1]]


def loss_of(facts: Mapping[str, Any]) -> str:
    """How near results come to those of fp32, where that was measured."""
    words = "cosine {mean:.4f} on average, {least:.4f} at least"
    if facts["kind"] == "ranking":
        words = "correlation of scores {mean:.4f}"
    return "; ".join(f"{precision}: {words.format(**loss)}" for precision, loss in facts["loss"].items())


def row(store: Store, card: Card) -> tuple[str, ...]:
    """One line of the table."""
    size = RANKS if card.kind == "ranking" else str(card.dimensions)
    return card.name, size, str(card.max_tokens), state(store, card), card.source
