"""What lies beside a model's folder while one is made, and stays there after a kill."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

PARTIAL = "partial"
"""The files of an unfinished pull; the next one goes on with them."""
SCRATCH = "tmp"
"""The folder that is being made."""
FORMER = "old"
"""The one that has been replaced, or is being removed."""


def beside(target: Path, kind: str) -> Path:
    """Where this kind of leftover of a model folder is."""
    return target.with_name(f".{target.name}.{kind}")


def leftovers(target: Path) -> list[Path]:
    """Those that there are."""
    paths = (beside(target, kind) for kind in (PARTIAL, SCRATCH, FORMER))
    return [path for path in paths if os.path.lexists(path)]


def discard(path: Path) -> None:
    """Delete a folder, or whatever stands in its place; what a link leads to stays.

    Raises:
        OSError: the disk refuses.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(target: Path) -> None:
    """Delete all leftovers of a model folder, or as many as can be: they do no harm."""
    for path in leftovers(target):
        with suppress(OSError):
            discard(path)
