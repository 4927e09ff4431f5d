"""The files that `functions new` writes, as text."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).with_name("templates")
_AUTHORIZATION = '-H "Authorization: Bearer $ANON_KEY" '


def index_source(name: str, verify_jwt: bool, template: str = "handler") -> str:
    """The first `index.py` of a function: works as it is, and shows how to call it."""
    text = _read(f"{template}.py.txt", name)
    return _without_trailing_spaces(text.replace("__AUTHORIZATION__", _AUTHORIZATION if verify_jwt else ""))


def test_source(name: str, template: str = "handler") -> str:
    """A test of that function, which passes."""
    return _read(f"{template}.test.py.txt", name)


def _read(file: str, name: str) -> str:
    return (_FOLDER / file).read_text(encoding="utf-8").replace("__NAME__", name)


def _without_trailing_spaces(text: str) -> str:
    """Where no key is needed, a command has one line less."""
    lines = [line.rstrip() for line in text.split("\n")]
    for index, line in enumerate(lines):
        if line == "#":
            lines[index - 1] = lines[index - 1].removesuffix(" \\")
    return "\n".join(lines)


def open_section(name: str) -> str:
    """The lines of `config.toml` that let everybody call a function."""
    return f"[functions.{name}]\nverify_jwt = false\n"


def appended(text: str, section: str) -> str:
    """`text` with a section at its end, one empty line between them."""
    if not text:
        return section
    return text + ("" if text.endswith("\n") else "\n") + "\n" + section
