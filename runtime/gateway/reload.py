"""Noticing that a file was saved."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from watchfiles import BaseFilter, Change, awatch

_STEP_MS = 50  # changes within this time of one another are one
_LOOK_AGAIN_MS = 5000
_FOLDERS = ("functions", "supabase")
_IGNORED_FOLDERS = frozenset(
    (".git", ".functions", ".venv", "venv", "node_modules", "__pycache__", ".idea", ".vscode", ".mypy_cache")
)
_IGNORED_ENDINGS = ("~", ".tmp", ".swp", ".swx", ".swo", ".pyc", ".orig")


class Saves(BaseFilter):
    """Passes what a person saves below `folder`; not what editors and tools drop beside it.

    Args:
        only: the one file in it that matters; None: all.
    """

    def __init__(self, folder: str, only: str | None = None) -> None:
        super().__init__()
        self._folder, self._only = folder, only

    def __call__(self, change: Change, path: str) -> bool:
        if self._only is not None:
            return path == self._only
        parts = path.removeprefix(self._folder).split(os.sep)
        name = parts[-1]
        if name.endswith(_IGNORED_ENDINGS) or name.startswith((".#", "#", "___")) or name == "4913":
            return False
        return _IGNORED_FOLDERS.isdisjoint(parts)


async def project_saves(root: str) -> AsyncIterator[set[str]]:
    """The paths saved in `functions/` and `supabase/` below `root`, in batches.

    A folder may come, go, or be replaced by another meanwhile: then a batch is empty.

    Set WATCHFILES_FORCE_POLLING where the file system sends no events (network shares,
    some containers).
    """
    while True:
        known, other = await asyncio.to_thread(_folders, root), asyncio.Event()
        looking = asyncio.get_running_loop().create_task(_until_other_folders(root, known, other))
        try:
            async for batch in _saves(list(known), Saves(root), other):
                yield batch
        finally:
            looking.cancel()
        yield set()


async def file_saves(path: str) -> AsyncIterator[set[str]]:
    """The same for one file elsewhere; also when an editor replaces it by a new one."""
    folder = os.path.dirname(path)
    async for batch in _saves([folder], Saves(folder, path), asyncio.Event(), recursive=False):
        yield batch


async def _saves(
    folders: list[str], passes: Saves, stop: asyncio.Event, *, recursive: bool = True
) -> AsyncIterator[set[str]]:
    if not folders:
        await stop.wait()
        return
    async for changes in awatch(
        *folders,
        watch_filter=passes,
        step=_STEP_MS,
        debounce=_STEP_MS * 10,
        stop_event=stop,
        recursive=recursive,
    ):
        yield {path for _, path in changes}


async def _until_other_folders(root: str, known: dict[str, int], other: asyncio.Event) -> None:
    """Set `other` when the folders to be watched are no longer those that are known."""
    looks = awatch(
        root,
        watch_filter=None,
        step=_STEP_MS,
        recursive=False,
        rust_timeout=_LOOK_AGAIN_MS,
        yield_on_timeout=True,
    )
    async for _ in looks:
        if await asyncio.to_thread(_folders, root) != known:
            break
    other.set()


def is_watched(root: str, path: str) -> bool:
    """Whether `project_saves` tells of this file."""
    return any(path.startswith(os.path.join(root, name) + os.sep) for name in _FOLDERS)


def _folders(root: str) -> dict[str, int]:
    """The folders there are, with their inodes: one that was replaced has to be watched anew."""
    folders = {}
    for folder in (os.path.join(root, name) for name in _FOLDERS):
        if os.path.isdir(folder):
            folders[folder] = os.stat(folder).st_ino
    return folders
