"""What the tours need from the machine. Missing: the tests skip with a word on what to install.

With `CI` in the environment they fail instead, so that no check is lost in silence.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent


def curl() -> str:
    return shutil.which("curl") or _missing("curl is not installed")


def node() -> str:
    """Node, with the JavaScript clients installed beside this file."""
    program = shutil.which("node") or _missing(
        "Node is not installed: install nodejs and npm, then `make test`"
    )
    if not (HERE / "node_modules" / "playwright-core").is_dir():
        _missing(
            "the JavaScript clients are not installed: `make test` does it, or npm ci --prefix tests/clients"
        )
    return program


def chromium() -> str:
    """The browser: the one named by `CHROMIUM`, or else the first found."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
    program = next(filter(None, found), None)
    return program or _missing("Chromium is not installed: install it, or name one in the variable CHROMIUM")


def supabase_py() -> str:
    """The interpreter of the virtual environment that has supabase-py."""
    program = Path(sys.prefix) / "clients" / "bin" / "python"
    return str(program) if program.exists() else _missing("supabase-py is not installed: `make test` does it")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
