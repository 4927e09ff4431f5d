"""Letting other users read the interpreter where it lives in a private home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from runtime.worker import visibility

IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root can change what a process sees of the disk")
OTHER = 54_322

# With a package below a private folder among those that imports read.
SHOW = """
import errno, json, os, sys
from runtime.worker import visibility

private = sys.argv[1]
sys.path.append(f"{private}/packages")
visibility.show_interpreter()
os.setresgid(OTHER, OTHER, OTHER)
os.setresuid(OTHER, OTHER, OTHER)
import in_private
import xml.etree.ElementTree

def can(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

print(json.dumps({
    "imported": in_private.VALUE,
    "home": sorted(os.listdir(private)),
    "secret": can(lambda: open(f"{private}/secret").close()),
    "write": can(lambda: open(f"{private}/packages/new", "w").close()),
}))
"""

REFUSED = """
import errno
from runtime.worker import visibility

def refuse(name, *arguments):
    raise OSError(errno.EPERM, "Operation not permitted")

visibility._call = refuse
"""


@pytest.fixture
def private() -> Iterator[Path]:
    """A home as `/root` is one, with packages and a secret in it."""
    with TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        (home / "packages").mkdir(parents=True)
        (home / "packages" / "in_private.py").write_text("VALUE = 'found'\n")
        (home / "secret").write_text("secret")
        Path(folder).chmod(0o755)
        home.chmod(0o700)
        yield home


def show(private: Path) -> subprocess.CompletedProcess[str]:
    code = SHOW.replace("OTHER", str(OTHER))
    return subprocess.run(
        [sys.executable, "-I", "-c", code, str(private)], capture_output=True, text=True, timeout=20
    )


@only_root
def test_what_imports_read_is_shown_and_nothing_else_of_that_home(private: Path) -> None:
    done = show(private)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen == {
        "imported": "found",
        "home": ["packages"],
        "secret": "ENOENT",
        "write": "EROFS",
    }


@only_root
def test_nobody_else_sees_the_home_otherwise_than_before(private: Path) -> None:
    assert show(private).returncode == 0
    assert sorted(os.listdir(private)) == ["packages", "secret"]
    assert private.stat().st_mode & 0o777 == 0o700


def test_where_the_kernel_refuses_the_error_names_folder_and_ways_out(private: Path) -> None:
    """As in a container without the right to mount."""
    program = SHOW.replace("from runtime.worker import visibility", REFUSED)
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(private)], capture_output=True, text=True, timeout=20
    )
    assert done.returncode != 0
    assert "StartError: functions cannot run as an unprivileged user: Python is below" in done.stderr
    assert "Operation not permitted" in done.stderr
    assert "start the server as an ordinary user" in done.stderr.splitlines()[-1]


def test_folders_that_everybody_may_enter_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(name: str, *arguments: object) -> None:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(visibility, "_import_roots", lambda: ["/usr", "/no/such/folder"])
    monkeypatch.setattr(visibility, "_call", call)
    visibility.show_interpreter()
