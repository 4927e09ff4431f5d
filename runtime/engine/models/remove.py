"""Take a model out of the store."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.engine.models.leftovers import FORMER, beside, discard, leftovers
from runtime.engine.models.lock import locked
from runtime.engine.models.prepare import disk_refused
from runtime.engine.models.store import Store
from runtime.errors import ModelNotFound, UsageError


def removable(store: Store, name: str) -> list[Path]:
    """What the store has of this model, unfinished pulls included.

    Args:
        name: of a model; or the absolute path of a folder of which the store made one.

    Raises:
        UsageError: no model can have this name.
    """
    target = _target(store, name)
    return [path for path in (target, *leftovers(target)) if os.path.lexists(path)]


def remove(store: Store, name: str) -> None:
    """Delete it. A server that has the model in memory goes on with it until it ends.

    Raises:
        UsageError: another process is pulling it.
        StartError: the disk refuses.
    """
    target = _target(store, name)

    def refuse() -> None:
        raise UsageError(f"Another process works on {name}", remedy="wait for it, or end it")

    try:
        with locked(target, refuse):
            former = beside(target, FORMER)
            if os.path.lexists(target):
                discard(former)
                os.rename(target, former)  # nobody shall find half of it
            for path in leftovers(target):
                discard(path)
    except OSError as error:
        raise disk_refused(name, target, error, "removed") from error


def _target(store: Store, name: str) -> Path:
    if os.path.isabs(name):
        return store.cache_folder(Path(name))
    try:
        return store.folder(name)
    except ModelNotFound as error:
        raise UsageError(error.message) from error
