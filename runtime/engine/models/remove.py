"""Take a model out of the store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from runtime.engine.models.lock import locked
from runtime.engine.models.prepare import disk_refused
from runtime.engine.models.pull import partial_folder
from runtime.engine.models.store import Store
from runtime.errors import ModelNotFound, UsageError


def removable(store: Store, name: str) -> list[Path]:
    """The folders that the store has of this model, unfinished ones included.

    Raises:
        UsageError: no model can have this name.
    """
    try:
        folders = store.folder(name), partial_folder(store, name)
    except ModelNotFound as error:
        raise UsageError(error.message) from error
    return [folder for folder in folders if folder.is_dir()]


def remove(store: Store, name: str) -> None:
    """Delete them. A server that has the model in memory goes on with it until it ends.

    Raises:
        UsageError: another process is pulling it.
        StartError: the disk refuses.
    """
    target = store.folder(name)

    def refuse() -> None:
        raise UsageError(f"Another process works on {name}", remedy="wait for it, or end it")

    try:
        with locked(target, refuse):
            for folder in removable(store, name):
                gone = folder.with_name(f".{target.name}.old")
                shutil.rmtree(gone, ignore_errors=True)
                os.rename(folder, gone)  # nobody shall find half of it
                shutil.rmtree(gone)
    except OSError as error:
        raise disk_refused(name, target, error) from error
