"""`functions models …`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from runtime.cli import output
from runtime.cli.root import root_option, root_or_here
from runtime.errors import ModelNotFound, UsageError

if TYPE_CHECKING:
    from runtime.engine.models.card import Card
    from runtime.engine.models.store import Store

HEADER = ("NAME", "DIMENSIONS", "MAX TOKENS", "STATE", "SOURCE")


@click.group("models")
def command() -> None:
    """See and prepare the models on this machine.

    \b
    Examples:
      functions models list
      functions models prepare
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for programs.")
@root_option
def list_models(as_json: bool, root: str | None) -> None:
    """List the models that `ai.Session` finds by name.

    \b
    Examples:
      functions models list
      functions models list --json
    """
    store = open_store(root)
    cards = store.cards()
    if as_json:
        import json

        click.echo(json.dumps([describe(card) for card in cards], indent=2))
    elif cards:
        output.table(HEADER, [row(card) for card in cards])
    else:
        output.note(f"no models in {store.models_dir}: `make install` brings one")


@command.command("prepare")
@click.argument("name", required=False)
@root_option
def prepare_model(name: str | None, root: str | None) -> None:
    """Get a model ready to load: NAME, or all-minilm-l6-v2.

    Takes seconds the first time, and nothing after that. Serving does it too when needed.

    \b
    Examples:
      functions models prepare
      functions models prepare all-minilm-l6-v2
    """
    from runtime.cli.progress import shown
    from runtime.engine.models.catalogue import EMBEDDED
    from runtime.engine.models.prepare import prepare

    store, name = open_store(root), name or EMBEDDED
    try:
        known = store.get(name)
        with shown() as progress:
            card = prepare(name, store, progress)
    except ModelNotFound as error:
        raise UsageError(error.message) from error
    if (card.folder, card.stamp) != (known.folder, known.stamp):
        click.echo(f"Model {card.name} is ready in {card.folder}")


def open_store(root: str | None) -> Store:
    """The model store that the project at `root`, if there is one, uses."""
    from runtime.engine.models.store import Store
    from runtime.project.config import read_config
    from runtime.project.settings import AI

    base = root_or_here(root)
    ai = read_config(base, os.environ).settings.get("ai", AI())
    return Store(os.path.join(base, os.path.expanduser(ai.models_dir)) if ai.models_dir else "")


def describe(card: Card) -> dict[str, object]:
    """What `--json` says of a model."""
    return {
        "name": card.name,
        "dimensions": card.dimensions,
        "max_tokens": card.max_tokens,
        "prepared": card.prepared,
        "source": card.source,
        "folder": card.folder,
    }


def row(card: Card) -> tuple[str, ...]:
    """One line of the table."""
    state = "ready" if card.prepared else "not prepared"
    return card.name, str(card.dimensions), str(card.max_tokens), state, card.source
