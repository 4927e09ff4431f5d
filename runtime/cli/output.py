"""What a person reads: messages on stderr, tables on stdout, colour only on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

import click


def colored(stream: TextIO) -> bool:
    """True when it is a terminal that wants colour (see no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def error(message: str) -> None:
    """One error, on stderr."""
    label = click.style("error:", fg="red", bold=True) if colored(sys.stderr) else "error:"
    click.echo(f"{label} {message}", file=sys.stderr, color=True)


def note(message: str) -> None:
    """One thing worth knowing, on stderr."""
    label = click.style("note:", fg="yellow") if colored(sys.stderr) else "note:"
    click.echo(f"{label} {message}", file=sys.stderr, color=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns on stdout: with a header and cut to the screen on a terminal, bare in a pipe."""
    if not sys.stdout.isatty():
        for line in align(rows):
            click.echo(line, file=sys.stdout)
        return
    width = shutil.get_terminal_size().columns
    first, *rest = (_cut(line, width) for line in align([header, *rows]))
    click.echo(click.style(first, bold=True) if colored(sys.stdout) else first, file=sys.stdout, color=True)
    for line in rest:
        click.echo(line, file=sys.stdout)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns stand under one another, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"
