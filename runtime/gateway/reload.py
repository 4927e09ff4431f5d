"""Noticing that a file was saved."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping

from watchfiles import BaseFilter, Change, awatch

_STEP_MS = 50  # changes within this time of one another are one
_LOOK_AGAIN_MS = 5000
_FOLDERS = ("functions", "supabase")
_IGNORED_FOLDERS = frozenset(
    (".git", ".functions", ".venv", "venv", "node_modules", "__pycache__", ".idea", ".vscode", ".mypy_cache")
)
Places = Mapping[str, bool]
"""Folders elsewhere in the project that are to be watched; true: those below them too."""
Mark = tuple[int, ...]

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


async def project_saves(root: str, places: Callable[[], Places] = dict) -> AsyncIterator[set[str]]:
    """The paths saved in `functions/` and `supabase/` below `root`, and in `places`, in batches.

    A folder may come, go, or be replaced by another meanwhile: then a batch is empty.
    So it is for a file that lies in the project's own folder.

    Set WATCHFILES_FORCE_POLLING where the file system sends no events (network shares,
    some containers).

    Args:
        places: asked again after each batch, for it may have changed them.
    """

    def look() -> dict[str, Mark]:
        return _marks(root, places())

    while True:
        known, other = await asyncio.to_thread(look), asyncio.Event()
        looking = asyncio.get_running_loop().create_task(_until_other(root, look, known, other))
        folders = [path for path, mark in known.items() if len(mark) == 1]
        try:
            async for batch in _saves(folders, Saves(root), other):
                yield batch
                if await asyncio.to_thread(look) != known:
                    break
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
        ignore_permission_denied=True,  # of a mounted folder some parts may be its owner's alone
    ):
        yield {path for _, path in changes}


async def _until_other(
    root: str, look: Callable[[], dict[str, Mark]], known: dict[str, Mark], other: asyncio.Event
) -> None:
    """Set `other` when what is to be watched is no longer what is known."""
    looks = awatch(
        root,
        watch_filter=None,
        step=_STEP_MS,
        recursive=False,
        rust_timeout=_LOOK_AGAIN_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    async for _ in looks:
        if await asyncio.to_thread(look) != known:
            break
    other.set()


def is_watched(root: str, path: str) -> bool:
    """Whether `project_saves` tells of this file."""
    return any(path.startswith(os.path.join(root, name) + os.sep) for name in _FOLDERS)


def _marks(root: str, places: Places) -> dict[str, Mark]:
    """The folders to be watched, with their inodes: one that was replaced has to be watched anew.

    Of the project's own folder, which holds too much to be watched, the files themselves,
    with what changes when they are saved.
    """
    wanted = [os.path.join(root, name) for name in _FOLDERS]
    wanted += [path for path in places if path != root and not is_watched(root, path)]
    if root in places:
        wanted += _visible(root, deep=places[root])
    found: dict[str, Mark] = {}
    for path in wanted:
        try:
            stat = os.stat(path)
        except OSError:
            continue
        inner = os.path.isdir(path)
        found[path] = (stat.st_ino,) if inner else (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def _visible(root: str, *, deep: bool) -> list[str]:
    """The files in the project's folder, and the folders in it when those matter."""
    return [
        entry.path
        for entry in os.scandir(root)
        if not entry.name.startswith(".") and entry.name not in _IGNORED_FOLDERS and (deep or entry.is_file())
    ]
