"""`functions serve`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import click

from runtime.cli import output
from runtime.cli.root import env_file_option, root_of, root_option

if TYPE_CHECKING:
    from runtime.project.settings import LogFormat, Options, Project


@click.command("serve")
@env_file_option
@click.option("--host", metavar="ADDRESS", help="Address to listen on. Default: 127.0.0.1, for this machine.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", help="0 takes a free port. Default: 54321."
)
@click.option(
    "--prefix",
    metavar="PATH",
    help='Where functions are; "" behind a gateway that strips it. Default: /functions/v1.',
)
@click.option("--no-verify-jwt", is_flag=True, help="Let every request in, with or without a key.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "plain", "json"]),
    default="auto",
    show_default=True,
    help="auto: for people on a terminal, plain lines elsewhere.",
)
@root_option
def command(
    env_file: str | None,
    host: str | None,
    port: int | None,
    prefix: str | None,
    no_verify_jwt: bool,
    log_format: str,
    root: str | None,
) -> None:
    """Serve the project's functions until Ctrl-C.

    A saved file is served at once; a file that does not load leaves its last good version
    in place and shows the traceback here.

    \b
    Examples:
      functions serve
      functions serve --port 8000 --env-file production.env
    """
    from runtime.project.settings import Options

    serve(
        Options(
            root=root_of(root),
            env_file=os.path.abspath(env_file) if env_file else None,
            host=host,
            port=port,
            prefix=prefix,
            verify_jwt=False if no_verify_jwt else None,
            log_format=cast("LogFormat", log_format),
        )
    )


def serve(options: Options) -> None:
    """Load the project once, to find what is wrong with it, and become the supervisor.

    Raises:
        UsageError: config, an env file or the keys are wrong.
        StartError: the server cannot start here.
    """
    from runtime.project.load import load
    from runtime.supervisor.launch import launch

    environ = dict(os.environ)
    project = load(options, environ)
    for text in project.notes:
        output.note(text)
    for text in unknown_models(project):
        output.note(text)
    if missing := missing_model(project):
        output.note(
            f"the model {missing} is not on this machine; `functions models list` shows those that are, and"
            " `functions models pull` brings others"
        )
        project = only_asked_for(project)
    check_engine(project)
    launch(project, options, environ)


def check_engine(project: Project) -> None:
    """See that this machine can run models as the configuration wants it.

    Raises:
        StartError: an execution provider is not installed, or the processor has no bfloat16.
    """
    from runtime.engine.providers import check_bfloat16, check_installed

    check_installed(project.settings.ai.providers)
    if "bf16" in project.settings.ai.precisions.values():
        check_bfloat16()


def unknown_models(project: Project) -> list[str]:
    """What to say of each `[ai.models.NAME]` that no model has as its name."""
    if not project.settings.ai.models:
        return []  # most projects name none, and need not read the store to start
    from difflib import get_close_matches

    from runtime.engine.models.store import Store

    store = Store(project.settings.ai.models_dir)
    known = {*store.catalogue, *(card.name for card in store.cards())}
    notes = []
    for name in project.settings.ai.models:
        if os.path.isdir(name) if os.path.isabs(name) else name in known:
            continue
        near = get_close_matches(name, known, 1)
        hint = f"is {near[0]} meant?" if near else "a folder's name starts with ./ or /"
        notes.append(f'[ai.models."{name}"] counts for no model: neither store nor catalogue has it; {hint}')
    return notes


def only_asked_for(project: Project) -> Project:
    """The project without the default model, to be loaded at the start, that nobody has asked for."""
    from msgspec.structs import replace

    settings = project.settings
    if settings.ai.preload is not None:
        return project
    return replace(project, settings=replace(settings, ai=replace(settings.ai, preload=())))


def missing_model(project: Project) -> str | None:
    """The first model to be loaded at start, where none of those to be loaded is here."""
    from runtime.engine.models.store import Store

    names = project.preload
    store = Store(project.settings.ai.models_dir)
    here = any(os.path.isdir(name) if os.path.isabs(name) else store.find(name) for name in names)
    return None if here or not names else names[0]
