from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.project.config import read_config
from runtime.project.discovery import describe, find_functions
from runtime.project.settings import Function, Limits

from .conftest import Write


def find(root: Path) -> tuple[dict[str, Function], list[str]]:
    return find_functions(str(root), read_config(str(root), {}))


def test_both_folders_are_searched(write: Write) -> None:
    root = write({"functions/a/index.py": "", "supabase/functions/b/index.py": ""})
    functions, notes = find(root)
    assert {name: function.directory for name, function in functions.items()} == {
        "a": str(root / "functions/a"),
        "b": str(root / "supabase/functions/b"),
    }
    assert notes == []


def test_a_project_without_functions_has_none(tmp_path: Path) -> None:
    assert find(tmp_path) == ({}, [])


@pytest.mark.parametrize("name", ["_shared", ".git", "_", "__pycache__"])
def test_names_that_begin_with_underscore_or_dot_are_no_functions(write: Write, name: str) -> None:
    assert find(write({f"functions/{name}/index.py": ""})) == ({}, [])


@pytest.mark.parametrize("name", ["a.b", "1a", "a b", "é", "-a"])
def test_a_name_that_no_function_can_have_is_noted(write: Write, name: str) -> None:
    functions, (note,) = find(write({f"functions/{name}/index.py": ""}))
    assert functions == {}
    assert f"functions/{name} is ignored" in note


@pytest.mark.parametrize("name", ["a", "A", "a-b_c9", "x" * 200])
def test_names_that_functions_can_have(write: Write, name: str) -> None:
    assert set(find(write({f"functions/{name}/index.py": ""}))[0]) == {name}


def test_files_and_empty_folders_are_passed_over(write: Write) -> None:
    assert find(write({"functions/readme": "", "functions/a/other.py": ""})) == ({}, [])


def test_the_same_name_in_both_folders_names_both(write: Write) -> None:
    root = write({"functions/a/index.py": "", "supabase/functions/a/index.py": ""})
    with pytest.raises(ConfigError) as error:
        find(root)
    message = str(error.value)
    assert str(root / "functions/a") in message
    assert str(root / "supabase/functions/a") in message
    assert "→ rename or remove one" in message


def test_one_folder_may_be_a_link_to_the_other(write: Write) -> None:
    root = write({"supabase/functions/a/index.py": ""})
    (root / "functions").symlink_to("supabase/functions")
    assert find(root)[0]["a"].directory == str(root / "functions/a")


def test_a_folder_that_is_a_link_is_followed(write: Write) -> None:
    root = write({"elsewhere/a/index.py": "'''Linked.'''", "functions/_shared/x.py": ""})
    (root / "functions/a").symlink_to(root / "elsewhere/a")
    (root / "functions/b").symlink_to(root / "nowhere")
    functions, _ = find(root)
    assert set(functions) == {"a"}
    assert functions["a"].directory == str(root / "functions/a")
    assert functions["a"].description == "Linked."


def test_a_declared_function_without_its_file_is_listed(write: Write) -> None:
    root = write({"functions/a/notes.txt": "", "supabase/config.toml": "[functions.a]\n[functions.b]"})
    functions, notes = find(root)
    assert set(functions) == {"a"}
    assert notes == ["supabase/config.toml: functions.b is ignored: there is no function of that name"]


def test_a_function_of_the_peers_runtime_is_noted(write: Write) -> None:
    root = write({"supabase/functions/a/index.ts": "", "supabase/config.toml": "[functions.a]"})
    functions, (note,) = find(root)
    assert functions == {}
    assert "supabase/functions/a is ignored: index.ts" in note


def test_a_rewritten_function_stands_beside_the_peers(write: Write) -> None:
    functions, notes = find(write({"supabase/functions/a/index.ts": "", "functions/a/index.py": ""}))
    assert set(functions) == {"a"}
    assert notes == []


def test_the_configuration_of_a_function_arrives(write: Write) -> None:
    root = write(
        {
            "functions/a/index.py": "",
            "functions/b/index.py": "",
            "supabase/config.toml": "[edge_runtime.defaults]\nqueue = 3\n"
            "[functions.a]\nenabled = false\nverify_jwt = false\nsecrets = ['K']\nmemory_mb = 9\n",
        }
    )
    functions, _ = find(root)
    assert functions["a"] == Function(
        name="a",
        directory=str(root / "functions/a"),
        root=str(root),
        enabled=False,
        verify_jwt=False,
        secrets=("K",),
        limits=Limits(queue=3, memory_mb=9),
    )
    assert functions["b"].limits == Limits(queue=3)


@pytest.mark.parametrize(
    ("folder", "entrypoint", "expected"),
    [
        ("supabase/functions", "./functions/a/main.py", "main.py"),
        ("supabase/functions", "main.py", "main.py"),
        ("supabase/functions", "src/main.py", "src/main.py"),
        ("functions", "functions/a/src/main.py", "src/main.py"),
        ("functions", "../functions/a/main.py", "main.py"),
        ("functions", "src/../main.py", "main.py"),
        ("functions", "index.ts", "index.py"),
    ],
)
def test_an_entry_point_is_found_from_where_the_peer_looks_too(
    write: Write, folder: str, entrypoint: str, expected: str
) -> None:
    files = dict.fromkeys((f"{folder}/a/{file}" for file in ("index.py", "main.py", "src/main.py")), "")
    root = write(files | {"supabase/config.toml": f"[functions.a]\nentrypoint = '{entrypoint}'"})
    assert find(root)[0]["a"].entrypoint == expected


@pytest.mark.parametrize("entrypoint", ["../b/index.py", "../../secret.py", "/etc/passwd", ".", "link.py"])
def test_an_entry_point_may_not_leave_its_folder(write: Write, entrypoint: str) -> None:
    root = write(
        {
            "functions/a/index.py": "",
            "functions/b/index.py": "",
            "secret.py": "",
            "supabase/config.toml": f"[functions.a]\nentrypoint = '{entrypoint}'",
        }
    )
    (root / "functions/a/link.py").symlink_to(root / "secret.py")
    with pytest.raises(ConfigError) as error:
        find(root)
    message = str(error.value)
    assert message.startswith(f"{root}/supabase/config.toml: functions.a.entrypoint: ")
    assert f'"{entrypoint}" lies outside' in message
    assert "→ use a file in that folder" in message


def test_a_functions_folder_that_cannot_be_listed_is_an_error(write: Write) -> None:
    root = write({"x": ""})
    os.symlink(root / "functions", root / "functions")
    with pytest.raises(ConfigError, match=r"functions: cannot be read: .*\n  → make it a folder"):
        find(root)


@pytest.mark.parametrize(
    ("source", "description"),
    [
        (b'"""Greets.\n\nAt length."""', "Greets."),
        (b"# comment\n'''\n  Greets.\n'''\nimport x", "Greets."),
        (b"x = 1", ""),
        (b"", ""),
        (b'"""Greets."""\ndef (', ""),
        (b"\xff\xfe\x00", ""),
        (b'"""a\x00b"""', ""),
        (b"'''\\d'''", "\\d"),
        (b"(" * 5000, ""),
    ],
)
def test_a_description_is_the_first_line_of_the_docstring(
    tmp_path: Path, source: bytes, description: str
) -> None:
    file = tmp_path / "index.py"
    file.write_bytes(source)
    assert describe(str(file)) == description
    assert describe(str(tmp_path / "gone.py")) == ""
