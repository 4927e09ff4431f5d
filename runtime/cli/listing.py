"""`functions list`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from runtime.cli import output
from runtime.cli.root import open_project, root_option

if TYPE_CHECKING:
    from runtime.project.settings import Function, Settings

HEADER = ("NAME", "ENABLED", "VERIFY JWT", "PATH", "DESCRIPTION")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for programs.")
@root_option
def command(as_json: bool, root: str | None) -> None:
    """List the project's functions.

    The description is the first line of the docstring of index.py.

    \b
    Examples:
      functions list
      functions list --json
    """
    project = open_project(root)
    settings = project.settings
    functions = [project.functions[name] for name in sorted(project.functions)]
    if as_json:
        import json

        described = [describe(function, settings) for function in functions]
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
    elif functions:
        output.table(HEADER, [row(function, settings) for function in functions])
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
