"""Noticing that a file was saved."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import BaseFilter, Change, awatch

_STEP_MS = 50  # changes within this time of one another are one
_IGNORED_FOLDERS = frozenset(
    (".git", ".functions", ".venv", "venv", "node_modules", "__pycache__", ".idea", ".vscode", ".mypy_cache")
)
_IGNORED_ENDINGS = ("~", ".tmp", ".swp", ".swx", ".swo", ".pyc", ".orig")


class Saves(BaseFilter):
    """Passes what a person saves; not what editors and tools drop beside it."""

    def __call__(self, change: Change, path: str) -> bool:
        parts = Path(path).parts
        name = parts[-1]
        if name.endswith(_IGNORED_ENDINGS) or name.startswith((".#", "#", "___")) or name == "4913":
            return False
        return _IGNORED_FOLDERS.isdisjoint(parts[-6:])


async def saves(root: str, env_file: str | None) -> AsyncIterator[set[str]]:
    """The paths that were saved, in batches; ends with the task that iterates.

    Watches `functions/` and `supabase/` below `root` with everything in them, and the
    folder of an env file that lies elsewhere. Set WATCHFILES_FORCE_POLLING where the file
    system sends no events (network shares, some containers).
    """
    folders = [os.path.join(root, name) for name in ("functions", "supabase")]
    watched = [folder for folder in folders if os.path.isdir(folder)]
    if env_file is not None and not any(env_file.startswith(folder + "/") for folder in watched):
        watched.append(env_file)
    async for changes in awatch(*watched, watch_filter=Saves(), step=_STEP_MS, debounce=_STEP_MS * 10):
        yield {path for _, path in changes}
