"""Tables and messages."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cli import output

RED = "\x1b[31m"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From here on, standard output and error are a terminal of 40 columns."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def test_an_error_is_red_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    output.error("no")
    assert RED in terminal.getvalue()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_can_refuse_colour(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    output.error("no")
    output.table(["A"], [["1"]])
    assert terminal.getvalue() == "error: no\nA\n1\n"


def test_a_table_on_a_terminal_has_a_header_and_fits_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    output.table(["NAME", "WHAT"], [["a", "x" * 100]])
    header, line = terminal.getvalue().splitlines()
    assert "NAME  WHAT" in header
    assert len(line) == 40
    assert line.endswith("…")


def test_a_table_in_a_pipe_is_bare_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["NAME", "WHAT"], [["a", "x" * 300], ["long", "y"]])
    assert capsys.readouterr().out == f"a     {'x' * 300}\nlong  y\n"


@given(st.lists(st.tuples(st.text("ab", min_size=1), st.text("ab", min_size=1)), min_size=1))
def test_columns_stand_under_one_another(rows: list[tuple[str, str]]) -> None:
    lines = output.align(rows)
    assert len({line.index(row[1], len(row[0]) + 2) for line, row in zip(lines, rows, strict=True)}) == 1
    assert [tuple(line.split()) for line in lines] == rows
