"""The command line as a whole: help, errors, exit codes, what it imports."""

from __future__ import annotations

import subprocess
import sys
import time

import click
import pytest

from runtime.cli import main
from runtime.errors import ConfigError, StartError
from runtime.version import __version__
from tests.cli.conftest import REPOSITORY, Run

HEAVY = {"rich", "starlette", "uvicorn", "jwt", "httpx2", "msgspec", "numpy", "onnxruntime", "tokenizers"}


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command("broken")
    def command() -> None:
        raise error

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda self, context, name: command)


def test_help_names_every_command_with_a_line_about_it(run: Run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    described = [line.split(maxsplit=1) for line in outcome.out.split("Commands:")[1].splitlines() if line]
    assert [line[0] for line in described][: len(main.COMMANDS)] == list(main.COMMANDS)
    assert all(len(line) == 2 for line in described)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_explains_itself_with_examples(run: Run, name: str) -> None:
    outcome = run(name, "--help")
    assert outcome.code == 0
    assert f"  functions {name}" in outcome.out.split("Examples:")[1]


def test_version_is_the_bare_number(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


def test_no_command_shows_the_help_and_is_a_usage_error(run: Run) -> None:
    assert run() == (2, "", run("--help").out)


def test_an_unknown_command_is_a_usage_error_with_the_nearest_name(run: Run) -> None:
    outcome = run("serv")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "'serv'" in outcome.err
    assert "did you mean serve?" in outcome.err


def test_an_unknown_flag_is_a_usage_error_that_names_the_help(run: Run) -> None:
    outcome = run("list", "--jsn")
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert "→ functions list --help" in outcome.err


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (StartError, 3)])
def test_expected_errors_are_one_message_and_the_exit_code_of_their_class(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: type[ConfigError], code: int
) -> None:
    failing(monkeypatch, kind("it is wrong", where="a/file: key", remedy="change it"))
    assert run("broken") == (code, "", "error: a/file: key: it is wrong\n  → change it\n")


def test_a_file_that_cannot_be_opened_is_named_without_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, PermissionError(13, "Permission denied", "/locked"))
    assert run("broken") == (2, "", "error: /locked: Permission denied\n")


def test_a_bug_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        run("broken")


def test_ctrl_c_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    outcome = run("broken")
    assert outcome.code == 130
    assert "Traceback" not in outcome.err


def loaded_by(*arguments: str) -> set[str]:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "runtime.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    return {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in process.stderr.splitlines() if "|" in line
    }


def test_help_loads_none_of_the_heavy_packages() -> None:
    loaded = loaded_by("--help")
    assert "click" in loaded
    assert not loaded & HEAVY


def test_help_answers_within_150_milliseconds() -> None:
    def once() -> float:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "runtime.cli.main", "--help"]
        subprocess.run(command, capture_output=True, check=True, cwd=REPOSITORY)
        return time.perf_counter() - begun

    assert min(once() for _ in range(5)) <= 0.150
