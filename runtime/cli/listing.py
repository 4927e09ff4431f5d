"""`functions list`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from runtime.cli import output
from runtime.cli.root import open_project, root_option, server_options

if TYPE_CHECKING:
    from runtime.project.settings import Function, Settings

HEADER = ("NAME", "ENABLED", "VERIFY JWT", "PATH", "DESCRIPTION")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for programs.")
@server_options
@root_option
def command(as_json: bool, port: int | None, url: str | None, root: str | None) -> None:
    """List the project's functions.

    The description is the first line of the docstring of index.py. While a server of this
    project runs on its port, the list says how its functions are.

    \b
    Examples:
      functions list
      functions list --json
      functions list --port 9000
    """
    from runtime.cli import health, state

    health.check(url)
    project = open_project(root)
    settings = project.settings
    functions = [project.functions[name] for name in sorted(project.functions)]
    live = state.ask(project, port, url)
    if as_json:
        import json

        described = [describe(function, settings) | live.described(function.name) for function in functions]
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
    elif functions:
        output.table(live.header(HEADER), [live.row(row(function, settings)) for function in functions])
    else:
        output.note(f"no functions in {settings.root}: make one with `functions new hello`")


def entry_path(function: Function) -> str:
    """The entry file, as seen from the working directory."""
    return os.path.relpath(os.path.join(function.directory, function.entrypoint))


def describe(function: Function, settings: Settings) -> dict[str, object]:
    """What `--json` says of a function."""
    return {
        "name": function.name,
        "enabled": function.enabled,
        "verify_jwt": settings.needs_key(function),
        "path": os.path.abspath(os.path.join(function.directory, function.entrypoint)),
        "description": function.description,
    }


def row(function: Function, settings: Settings) -> tuple[str, ...]:
    """One line of the table."""
    yes_no = {True: "yes", False: "no"}
    return (
        function.name,
        yes_no[function.enabled],
        yes_no[settings.needs_key(function)],
        entry_path(function),
        function.description,
    )
