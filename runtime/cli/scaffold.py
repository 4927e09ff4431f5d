"""The files that `functions new` writes, as text."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).with_name("templates")
_KEY = ' -H "Authorization: Bearer $ANON_KEY"'


def index_source(name: str, verify_jwt: bool, template: str = "handler") -> str:
    """The first `index.py` of a function: works as it is, and shows how to call it."""
    return _filled(f"{template}.py.txt", name).replace("{{key}}", _KEY if verify_jwt else "")


def source_of_test(name: str, template: str = "handler") -> str:
    """A test of that function, which passes."""
    return _filled(f"{template}.test.py.txt", name)


def _filled(file: str, name: str) -> str:
    return (_FOLDER / file).read_text(encoding="utf-8").replace("{{name}}", name)


def open_section(name: str) -> str:
    """The lines of `config.toml` that let everybody call a function."""
    return f"[functions.{name}]\nverify_jwt = false\n"


def appended(text: str, section: str) -> str:
    """`text` with a section at its end, one empty line between them."""
    if not text:
        return section
    return text + ("" if text.endswith("\n") else "\n") + "\n" + section
