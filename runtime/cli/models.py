"""`functions models …`: what the store has. `pulling` has the commands that fill it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli import output
from runtime.cli.pulling import PATHS, absolute, prepare_model, pull_model
from runtime.cli.root import root_option
from runtime.cli.stores import open_store
from runtime.errors import ModelNotFound, UsageError

if TYPE_CHECKING:
    from runtime.engine.models.card import Card
    from runtime.engine.models.store import Store

HEADER = ("NAME", "DIMENSIONS", "MAX TOKENS", "STATE", "SOURCE")

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
    """List the models that `ai.Session` finds by name.

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
    else:
        output.note(f"no models in {store.models_dir}: `functions models list --all` shows those to be had")


@command.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@root_option
def info_of_model(name: str, as_json: bool, root: str | None) -> None:
    """Tell everything that is known of the model NAME.

    \b
    Examples:
      functions models info gte-small
      functions models info gte-small --json
    """
    store = open_store(root)
    facts = details(store, find(store, name, or_known=True))
    if as_json:
        import json

        click.echo(json.dumps(facts, indent=2))
        return
    files = facts.pop("files")
    lines = [(key.replace("_", " "), str(value)) for key, value in facts.items() if value not in {"", None}]
    assert isinstance(files, list)
    lines += [("file", f"{file['path']}  {file['size']} bytes  sha256 {file['sha256']}") for file in files]
    for line in output.align(lines):
        click.echo(line)


@command.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@root_option
def verify_models(names: tuple[str, ...], root: str | None) -> int:
    """Read every file of the models NAME (all of them without one) and compare it with its digest.

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
    """The card of a model; of one that is only in the catalogue too, if that will do.

    Raises:
        UsageError: there is none; the message names those that exist.
    """
    card = store.find(name)
    if card is None and or_known and name in store.catalogue:
        return absent(store, name)
    try:
        return card or store.get(name)
    except ModelNotFound as error:
        raise UsageError(error.message) from error


def intact(store: Store, card: Card) -> bool:
    """Whether the files are what they were; says so."""
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


def repair(store: Store, card: Card) -> str:
    """The commands that bring a damaged model back."""
    from runtime.engine.models.prepare import GRAPHS, WEIGHTS

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


def state(store: Store, card: Card) -> str:
    """One of `READY`, `UNPREPARED`, `ABSENT`."""
    if card.prepared:
        return READY
    return UNPREPARED if store.package_folder(card.name) else ABSENT


def describe(store: Store, card: Card) -> dict[str, object]:
    """What `list --json` says of a model."""
    return {
        "name": card.name,
        "dimensions": card.dimensions,
        "max_tokens": card.max_tokens,
        "state": state(store, card),
        "source": card.source,
        "folder": card.folder,
    }


def details(store: Store, card: Card) -> dict[str, object]:
    """What `info` says of a model."""
    files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in card.files]
    return describe(store, card) | {
        "revision": card.revision,
        "licence": card.licence,
        "pooling": card.pooling,
        "prefix": card.prefix,
        "weights": card.weights,
        "sha256": card.sha256,
        "size": sum(file.size for file in card.files) or None,
        "files": files,
    }


def row(store: Store, card: Card) -> tuple[str, ...]:
    """One line of the table."""
    return card.name, str(card.dimensions), str(card.max_tokens), state(store, card), card.source
