"""`functions list`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_it_shows_each_function_on_one_line(run: Run, project: Path) -> None:
    run("new", "webhook", "--no-verify-jwt")
    outcome = run("list")
    assert outcome.code == 0
    assert [line.split(maxsplit=4) for line in outcome.out.splitlines()] == [
        ["hello", "yes", "yes", "functions/hello/index.py", "Greet someone."],
        ["webhook", "yes", "no", "functions/webhook/index.py", "Greet someone by name."],
    ]
    assert "\t" not in outcome.out


def test_where_all_are_open_none_is_said_to_need_a_key(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERIFY_JWT", "false")
    assert run("list").out.split()[:3] == ["hello", "yes", "no"]
    assert json.loads(run("list", "--json").out)[0]["verify_jwt"] is False


def test_json_is_for_programs(run: Run, project: Path) -> None:
    assert json.loads(run("list", "--json").out) == [
        {
            "name": "hello",
            "enabled": True,
            "verify_jwt": True,
            "path": str(project / "functions/hello/index.py"),
            "description": "Greet someone.",
        }
    ]


def test_no_function_yet_is_said_with_the_next_step(run: Run, tmp_path: Path) -> None:
    outcome = run("list", "--root", str(tmp_path))
    assert (outcome.code, outcome.out) == (0, "")
    assert "functions new hello" in outcome.err


def test_a_folder_below_finds_its_project(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "functions/hello")
    assert run("list").out.split()[3] == "index.py"


def test_a_broken_config_is_an_error_that_names_the_file(run: Run, project: Path) -> None:
    (project / "supabase").mkdir()
    (project / "supabase/config.toml").write_text("[api\n")
    outcome = run("list")
    assert (outcome.code, outcome.out) == (2, "")
    assert "config.toml" in outcome.err
