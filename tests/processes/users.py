"""Servers of root and of an ordinary user, whoever runs the tests.

Run as `python users.py UID COMMAND …` it becomes that user and then the command. Where only
root can enter the folder that holds Python, the user is let in the way workers are.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.worker import visibility
from tests.running import Server, serving

IS_ROOT = os.geteuid() == 0
ORDINARY = 54_321  # no worker's uid, and nobody's on a usual machine


@dataclass(frozen=True)
class User:
    """Who starts the server."""

    name: str

    @property
    def is_root(self) -> bool:
        return self.name == "root"

    @property
    def via(self) -> tuple[str, ...]:
        """The command that starts another as this user."""
        if self.is_root or not IS_ROOT:
            return ()
        return (sys.executable, __file__, str(ORDINARY))

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder that the server and, as root, its workers' users can reach (`tmp_path` is private)."""
        path = Path(tempfile.mkdtemp(prefix="tests-"))
        path.chmod(0o755)
        (path / "tmp").mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path)

    def own(self, path: Path) -> None:
        """Give a folder and what is in it to this user."""
        if self.via:
            for found in (path, *path.rglob("*")):
                os.chown(found, ORDINARY, ORDINARY, follow_symlinks=False)

    @contextmanager
    def serving(self, root: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
        """A ready server whose temporary files are in the folder `tmp` beside `root`."""
        self.own(root.parent)
        temp = {"TMPDIR": str(root.parent / "tmp")}
        with serving(root, *arguments, env=temp | dict(env or {}), via=self.via) as server:
            yield server


USERS = [
    pytest.param(
        User("root"),
        id="root",
        marks=pytest.mark.skipif(not IS_ROOT, reason="only root can start it as root"),
    ),
    pytest.param(User("ordinary"), id="ordinary"),
]
ME = User("root" if IS_ROOT else "ordinary")


def become(uid: int) -> None:
    """Be an ordinary user for good."""
    visibility.show_interpreter()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


if __name__ == "__main__":
    become(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
