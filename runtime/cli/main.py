"""The console script `functions`.

Only click is imported here: a command's module is loaded when the command is called (or
described), and the rest of the runtime when the command runs. Exit codes: 0 done, 1 the
function answered with an error, 2 something about the call is wrong, 3 could not start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from runtime.cli import output
from runtime.errors import UsageError
from runtime.version import __version__

COMMANDS = {
    "serve": "runtime.cli.serve",
    "new": "runtime.cli.new",
    "list": "runtime.cli.listing",
    "invoke": "runtime.cli.invoke",
    "keys": "runtime.cli.keys",
    "health": "runtime.cli.health",
    "models": "runtime.cli.models",
}
"""Command → the module that has it as `command`, in the order of the help text."""

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            raise click.UsageError(_unknown(cmd_name), ctx)
        command = import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    return f"there is no command {name!r}" + (f"; did you mean {near[0]}?" if near else "")


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: functions new hello, then functions serve. Each command explains itself with --help.",
)
@click.version_option(__version__, "-V", "--version", message="%(version)s")
def cli() -> None:
    """Serve Python functions over HTTP, with models kept warm beside them."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. The one place that reports errors."""
    try:
        outcome = cli.main(list(arguments), prog_name="functions", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        output.error(_explain(error))
        return error.exit_code
    except UsageError as error:
        output.error(error.message)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        output.error(f"{error.filename}: {error.strerror}")
        return UsageError.exit_code
    return outcome if isinstance(outcome, int) else 0


def _explain(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    step = f"\n  → {context.command_path} --help" if context else ""
    return f"{error.format_message()}{step}"


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
