from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import EnvFileError
from runtime.project.envfile import parse_env, read_env_file, without_reserved

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.dictionaries(NAMES, VALUES))
def test_what_is_quoted_comes_back_unchanged(values: dict[str, str]) -> None:
    text = "\n".join(f"{name}={quoted(value)}" for name, value in values.items())
    assert parse_env(text, "f") == values


@given(st.text())
def test_any_text_is_either_read_or_refused(text: str) -> None:
    with contextlib.suppress(EnvFileError):
        assert all("\0" not in value for value in parse_env(text, "f").values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n\n  \n# only comments\n", {}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("export A=1", {"A": "1"}),
        ("A = spaced  ", {"A": "spaced"}),
        ("A=", {"A": ""}),
        ("A=x # comment", {"A": "x"}),
        ("A=pass#word", {"A": "pass#word"}),
        ("A='single $HOME ${B}'", {"A": "single $HOME ${B}"}),
        ('A="double $HOME ${B}"', {"A": "double $HOME ${B}"}),
        ("A=bare$HOME${B}", {"A": "bare$HOME${B}"}),
        ('A="two\nlines"', {"A": "two\nlines"}),
        ('A="tab\\tnewline\\n"', {"A": "tab\tnewline\n"}),
        ("A=a=b==", {"A": "a=b=="}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=ünï", {"A": "ünï"}),
        ("\ufeffA=1", {"A": "1"}),
    ],
)
def test_the_usual_notations_work(text: str, expected: dict[str, str]) -> None:
    assert parse_env(text, "f") == expected


@pytest.mark.parametrize(
    ("text", "line", "problem", "remedy"),
    [
        ("hunter2 is my secret", 1, "is not NAME=value", "write NAME=value"),
        ("A=1\n\n\nB: hunter2", 4, "is not NAME=value", "write NAME=value"),
        ("A=1\r\n\r\nB: hunter2", 3, "is not NAME=value", "write NAME=value"),
        ("A=1\nB='hunter2\nC=3\n", 2, "is not NAME=value", "close every quote"),
        ('A="hunter2" hunter2', 1, "is not NAME=value", "write NAME=value"),
        ("=hunter2", 1, "is not NAME=value", "write NAME=value"),
        ("# fine\nA", 2, "has no =", "write NAME=value"),
        ("A=1\nhunter2", 2, "has no =", "quote a value of several lines"),
        ("A-B=hunter2", 1, "has a name that no variable can have", "letters"),
        ("1A=hunter2", 1, "has a name that no variable can have", "letters"),
        ("A=hunter2\0", 1, "A contains a NUL", "base64"),
    ],
)
def test_a_line_that_makes_no_sense_is_named_and_not_shown(
    text: str, line: int, problem: str, remedy: str
) -> None:
    with pytest.raises(EnvFileError) as error:
        parse_env(text, "/p/.env")
    message = str(error.value)
    assert message.startswith(f"/p/.env:{line}: {problem}")
    assert remedy in message.split("→")[1]
    assert "hunter2" not in message
    assert error.value.__context__ is None


def test_a_missing_file_names_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "gone.env"
    with pytest.raises(EnvFileError) as error:
        read_env_file(str(path))
    assert str(error.value).startswith(f"{path}: there is no such file")
    assert "→ create it, or change --env-file" in str(error.value)


def test_a_folder_or_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvFileError, match="cannot be read: Is a directory\n  → make it a plain file"):
        read_env_file(str(tmp_path))
    file = tmp_path / ".env"
    file.write_bytes(b"A=1\nB=\xff\n")
    with pytest.raises(EnvFileError, match=r"\.env:2: is not UTF-8\n  → save it again"):
        read_env_file(str(file))


def test_names_of_the_server_are_skipped_with_a_note() -> None:
    given_values = {"SUPABASE_URL": "hunter2", "JWT_SECRET": "hunter2", "MY_SUPABASE_URL": "1", "A": "2"}
    kept, notes = without_reserved(given_values, "/p/.env")
    assert kept == {"MY_SUPABASE_URL": "1", "A": "2"}
    assert [note.split(":")[1].split()[0] for note in notes] == ["SUPABASE_URL", "JWT_SECRET"]
    assert all(note.startswith("/p/.env: ") and "hunter2" not in note for note in notes)
