"""`functions new`."""

from __future__ import annotations

import itertools
import os
from importlib.util import find_spec
from pathlib import Path

import click

from runtime.cli.root import root_option, root_or_here
from runtime.errors import ConfigError, FunctionNameError

TEMPLATES = {
    "handler": "answer JSON with JSON",
    "embed": "turn text into embeddings",
    "chat": "stream a language model's answer",
    "stream": "send server-sent events",
    "app": "serve an ASGI application with routes of its own",
    "websocket": "talk over a WebSocket",
    "webhook": "receive signed webhooks; needs no key",
}
"""What `--template` takes, with a line on each; the texts are in `templates/`."""

KEYLESS = frozenset({"webhook"})
"""Templates of functions that check their callers themselves."""


def _listed() -> str:
    return "\n".join(f"  {name:<10} {line}" for name, line in TEMPLATES.items())


def _show_list(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(_listed())
        context.exit()


@click.command("new", epilog=f"\b\nTemplates:\n{_listed()}")
@click.argument("name")
@click.option(
    "-t",
    "--template",
    metavar="T",
    type=click.Choice(list(TEMPLATES)),
    default="handler",
    help="What to begin with: one of those below. Default: handler.",
)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_show_list, help="Show the templates."
)
@click.option("--no-verify-jwt", is_flag=True, help="Let everybody call it: says so in supabase/config.toml.")
@root_option
def command(name: str, template: str, no_verify_jwt: bool, root: str | None) -> None:
    """Create the function NAME from a small template, with a test that passes.

    It goes to functions/NAME/, or under supabase/functions/ where only that folder exists.
    Nothing is ever overwritten. A running server serves it at once.

    \b
    Examples:
      functions new summarize
      functions new assistant --template chat
      functions new status --no-verify-jwt
    """
    base = Path(root_or_here(root))
    keyless = no_verify_jwt or template in KEYLESS
    path = create(base, name, verify_jwt=not keyless, template=template)
    for written in sorted(path.parent.iterdir()):
        click.echo(f"Created {os.path.relpath(written)}")
    if keyless:
        click.echo(f"Everybody may call it: see [functions.{name}] in supabase/config.toml")
    click.echo(f"Next: edit it, run `functions serve`, and call it with `functions invoke {name}`")
    install = "" if find_spec("pytest") else " (`pip install pytest` brings it)"
    click.echo(f"Its test runs without a server: `pytest {os.path.relpath(path.parent)}`{install}")


def create(base: Path, name: str, *, verify_jwt: bool, template: str = "handler") -> Path:
    """Write a new function and its test into the project at `base`; returns the path of its `index.py`.

    Raises:
        FunctionNameError: the name breaks the rule, or is in use.
        ConfigError: `config.toml` cannot be read, or configures this function already.
    """
    from runtime.cli.scaffold import index_source, source_of_test

    check_name(name)
    for folder in (base / "functions", base / "supabase" / "functions"):
        if (folder / name).exists():
            raise FunctionNameError(
                f"there is a function {name} already",
                where=os.path.relpath(folder / name),
                remedy="choose another name; `functions list` shows those in use",
            )
    config = None if verify_jwt else _opened_config(base, name)
    directory = functions_folder(base) / name
    directory.mkdir(parents=True)
    path = directory / "index.py"
    path.write_text(index_source(name, verify_jwt, template), encoding="utf-8")
    path.with_name(_test_file(directory)).write_text(source_of_test(name, template), encoding="utf-8")
    if config is not None:
        config_path = _config_path(base)
        config_path.parent.mkdir(parents=True, exist_ok=True)
        config_path.write_text(config, encoding="utf-8")
    return path


def _test_file(directory: Path) -> str:
    """What a function's test is called: a module's name, of which pytest imports only one of each."""
    stem = f"test_{directory.name.replace('-', '_')}"
    taken = {path.name for path in directory.parent.glob(f"*/{stem}*.py")}
    names = itertools.chain([f"{stem}.py"], (f"{stem}_{number}.py" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def functions_folder(base: Path) -> Path:
    """Where a new function goes."""
    theirs = base / "supabase" / "functions"
    ours = base / "functions"
    return theirs if theirs.is_dir() and not ours.is_dir() else ours


def check_name(name: str) -> None:
    """Raises FunctionNameError unless the name fits into a URL and a config key."""
    from runtime.project.discovery import NAME

    if not NAME.fullmatch(name):
        raise FunctionNameError(
            f"{name!r} is no name for a function",
            remedy="start with a letter, then use letters, digits, hyphens and underscores, "
            "like summarize or send-mail",
        )


def _config_path(base: Path) -> Path:
    return base / "supabase" / "config.toml"


def _opened_config(base: Path, name: str) -> str:
    import tomllib

    from runtime.cli.scaffold import appended, open_section

    path = _config_path(base)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    try:
        declared = tomllib.loads(text).get("functions", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", where=os.path.relpath(path)) from error
    if name in declared:
        raise ConfigError(
            f"[functions.{name}] is there already",
            where=os.path.relpath(path),
            remedy="set `verify_jwt = false` there, and leave --no-verify-jwt out",
        )
    return appended(text, open_section(name))
