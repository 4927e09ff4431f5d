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
    """Passes what a person saves; not what editors and tools drop beside it.

    Args:
        only: the one file that matters; None: all.
    """

    def __init__(self, only: str | None = None) -> None:
        super().__init__()
        self._only = only

    def __call__(self, change: Change, path: str) -> bool:
        if self._only is not None:
            return path == self._only
        *folders, name = Path(path).parts
        if name.endswith(_IGNORED_ENDINGS) or name.startswith((".#", "#", "___")) or name == "4913":
            return False
        return _IGNORED_FOLDERS.isdisjoint((*folders[-5:], name))


async def project_saves(root: str) -> AsyncIterator[set[str]]:
    """The paths saved in `functions/` and `supabase/` below `root`, in batches.

    Set WATCHFILES_FORCE_POLLING where the file system sends no events (network shares,
    some containers).
    """
    async for batch in _saves(_folders(root), Saves(), recursive=True):
        yield batch


async def file_saves(path: str) -> AsyncIterator[set[str]]:
    """The same for one file elsewhere; also when an editor replaces it by a new one."""
    async for batch in _saves([os.path.dirname(path)], Saves(path), recursive=False):
        yield batch


async def _saves(folders: list[str], passes: Saves, *, recursive: bool) -> AsyncIterator[set[str]]:
    debounce = _STEP_MS * 10
    async for changes in awatch(
        *folders, watch_filter=passes, step=_STEP_MS, debounce=debounce, recursive=recursive
    ):
        yield {path for _, path in changes}


def is_watched(root: str, path: str) -> bool:
    """Whether `project_saves` tells of this file."""
    return any(path.startswith(folder + "/") for folder in _folders(root))


def _folders(root: str) -> list[str]:
    folders = [os.path.join(root, name) for name in ("functions", "supabase")]
    return [folder for folder in folders if os.path.isdir(folder)]
