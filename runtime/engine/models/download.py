"""One file of a repository onto the disk, whole and checked."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from runtime.engine.models.hub import Hub
from runtime.engine.models.leftovers import discard
from runtime.engine.models.listing import RemoteFile
from runtime.errors import HubError


def download(
    hub: Hub, repository: str, revision: str, file: RemoteFile, target: Path, done: Callable[[int], None]
) -> None:
    """Make `target` the file; what an earlier attempt left of it is used.

    Args:
        done: called with the bytes that are there.

    Raises:
        HubError: it cannot be had, or is not what it should be: then nothing of it is left.
        OSError: the disk refuses.
    """
    resumed = had(target, file) > 0
    while True:
        hub.fetch(repository, revision, file, target, done)
        fault = _fault(target, file)
        if not fault:
            done(file.size)
            return
        target.unlink()
        if not resumed:
            raise HubError(
                f"The hub sent another {file.path} than it should: {fault}",
                where=f"{hub.address}/{repository}",
                remedy="pull again; if it stays so, something between here and the hub changes files",
            )
        resumed = False  # the beginning may have been of another version


def had(target: Path, file: RemoteFile) -> int:
    """The bytes of the file that are there already; what cannot be its beginning is removed."""
    try:
        facts = os.lstat(target)
    except FileNotFoundError:
        return 0
    # A kill at the very end of a pull leaves files that the model in the store shares.
    ours = facts.st_nlink == 1 or facts.st_size == file.size
    if stat.S_ISREG(facts.st_mode) and ours and facts.st_size <= file.size:
        return facts.st_size
    discard(target)
    return 0


def _fault(target: Path, file: RemoteFile) -> str:
    name, expected = ("sha256", file.sha256) if file.sha256 else ("git's digest", file.blob)
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)
    with open(target, "rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    found = digest.hexdigest()
    return "" if found == expected else f"its {name} is {found}, not {expected}"
