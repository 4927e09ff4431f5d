"""`functions keys`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from runtime.cli.root import open_project, root_option
from runtime.errors import KeysError

if TYPE_CHECKING:
    from runtime.project.settings import Keys


@click.command("keys")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@root_option
def command(as_json: bool, root: str | None) -> None:
    """Print the project's keys as lines for a shell.

    ANON_KEY is for clients, SERVICE_ROLE_KEY for servers. The first call makes them.

    \b
    Examples:
      eval "$(functions keys)"
      functions keys --json
    """
    named = named_keys(open_project(root).keys)
    if as_json:
        import json

        click.echo(json.dumps(named, indent=2))
        return
    for name, value in named.items():
        click.echo(f"{name}={shlex.quote(value)}")


def named_keys(keys: Keys) -> dict[str, str]:
    """The keys that exist, by the name of their shell variable.

    Raises:
        KeysError: there is none.
    """
    candidates = {
        "ANON_KEY": keys.anon_key,
        "SERVICE_ROLE_KEY": keys.service_role_key,
        "PUBLISHABLE_KEY": next(iter(keys.publishable), ""),
        "SECRET_KEY": next(iter(keys.secret), ""),
    }
    named = {name: value for name, value in candidates.items() if value}
    if not named:
        raise KeysError(
            "this project has no keys of its own: its tokens come from elsewhere (JWKS)",
            remedy="set JWT_SECRET, or SUPABASE_ANON_KEY and SUPABASE_SERVICE_ROLE_KEY",
        )
    return named
