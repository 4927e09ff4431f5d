"""Progress of a long step."""

from __future__ import annotations

import io
import sys

import pytest

from runtime.cli.progress import shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_one_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as progress:
        for done in range(0, 101, 10):
            progress("converting", done, 100)
        progress("checking", 100, 100)
    assert capsys.readouterr() == ("", "converting\nchecking\n")


def test_a_terminal_gets_a_bar_that_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown() as progress:
        progress("converting", 0, 100)
        progress("converting", 100, 100)
    assert "converting" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
