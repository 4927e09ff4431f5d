"""Which project a command works on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runtime.cli import output
from runtime.errors import UsageError

if TYPE_CHECKING:
    from runtime.project.settings import Project

C = TypeVar("C", bound=Callable[..., Any])


def root_option(command: C) -> C:
    """Adds `--root DIR`."""
    return click.option(
        "--root",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False),
        help="The project's folder. Default: the nearest one above that holds functions/ or supabase/.",
    )(command)


def env_file_option(command: C) -> C:
    """Adds `--env-file PATH`."""
    return click.option(
        "--env-file",
        metavar="PATH",
        type=click.Path(),
        help="Variables for the functions. Default: supabase/functions/.env, if it exists.",
    )(command)


def server_options(command: C) -> C:
    """Adds `--port N` and `--url URL`: which server is asked."""
    number, told = click.IntRange(1, 65535), "The server's port. Default: the project's."
    port = click.option("--port", type=number, metavar="N", help=told)
    url = click.option("--url", metavar="URL", help="Where the server is, instead of this machine.")
    return port(url(command))


def root_of(root: str | None) -> str:
    """The absolute folder that `--root`, or the working directory, means."""
    from runtime.project.load import find_root

    return os.path.abspath(root) if root else find_root(os.getcwd())


def root_or_here(root: str | None) -> str:
    """As `root_of`; the working directory where no project is yet."""
    try:
        return root_of(root)
    except UsageError:
        return os.getcwd()


def open_project(root: str | None, env_file: str | None = None) -> Project:
    """The project as it is on disk; its notes go to stderr.

    Raises:
        UsageError: config, an env file or the keys are wrong.
    """
    from runtime.project.load import load
    from runtime.project.settings import Options

    options = Options(root=root_of(root), env_file=os.path.abspath(env_file) if env_file else None)
    project = load(options, os.environ)
    for text in project.notes:
        output.note(text)
    return project
