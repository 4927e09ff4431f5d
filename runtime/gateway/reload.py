"""Noticing that a file was saved."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

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

Tell = Callable[[str], object]

_INSTEAD = f"the server looks every {_LOOK_AGAIN_MS // 1000} s instead"
_REFUSALS = (OSError, RuntimeError)  # the second is of the base of watchfiles' own
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


class _Wanted:
    """What of a project is to be watched: its own folders, and `places` unless that failed."""

    def __init__(self, root: str, places: Callable[[], Places]) -> None:
        self._root, self._places = root, places
        self._failed: Places = {}

    def look(self) -> dict[str, Mark]:
        """The folders (and files, of the project's own folder), with what tells them from others."""
        return _marks(self._root, self._now())

    def give_up(self) -> bool:
        """Do without the places from now on, until they are others; False: there are none."""
        given_up = dict(self._now())
        self._failed = given_up or self._failed
        return bool(given_up)

    def _now(self) -> Places:
        places = self._places()
        return {} if places == self._failed else places


def _once(tell: Tell) -> Tell:
    """The same, which says nothing twice running."""
    said = ""

    def tell_once(text: str) -> None:
        nonlocal said
        if text != said:
            tell(text)
        said = text

    return tell_once


async def project_saves(
    root: str, places: Callable[[], Places] = dict, tell: Tell = lambda text: None
) -> AsyncIterator[set[str]]:
    """The paths saved in `functions/` and `supabase/` below `root`, and in `places`, in batches.

    A folder may come, go, or be replaced by another meanwhile: then a batch is empty.
    So it is for a file that lies in the project's own folder.

    Set WATCHFILES_FORCE_POLLING where the file system sends no events (network shares,
    some containers).

    Args:
        places: asked again after each batch, for it may have changed them.
        tell: called with a sentence where the system refuses to watch them, such as for want of
            watches. It goes on without `places`, or with an empty batch every few seconds.
    """
    tell = _once(tell)
    wanted = _Wanted(root, places)
    while True:
        known, other = await asyncio.to_thread(wanted.look), asyncio.Event()
        looking = asyncio.get_running_loop().create_task(_until_other(root, wanted.look, known, other))
        folders = [path for path, mark in known.items() if len(mark) == 1]
        try:
            async for batch in _saves(folders, Saves(root), other):
                yield batch
                if await asyncio.to_thread(wanted.look) != known:
                    break
        except _REFUSALS as error:
            await _after(error, wanted, known, tell)
        finally:
            looking.cancel()
        yield set()


async def _after(error: Exception, wanted: _Wanted, known: dict[str, Mark], tell: Tell) -> None:
    """Watching failed: do without the places, or try again a little later."""
    if await asyncio.to_thread(wanted.look) != known:
        return  # what was to be watched has just gone
    if await asyncio.to_thread(wanted.give_up):
        tell(f"the folders of static_files cannot be watched: {error}; a save there shows with the next one")
        return
    tell(f"functions/ and supabase/ cannot be watched: {error}; {_INSTEAD}")
    await asyncio.sleep(_LOOK_AGAIN_MS / 1000)


async def file_saves(path: str, tell: Tell = lambda text: None) -> AsyncIterator[set[str]]:
    """The same for one file elsewhere; also when an editor replaces it by a new one."""
    folder, tell = os.path.dirname(path), _once(tell)
    while True:
        try:
            async for batch in _saves([folder], Saves(folder, path), asyncio.Event(), recursive=False):
                yield batch
        except _REFUSALS as error:
            tell(f"{path} cannot be watched: {error}; {_INSTEAD}")
            await asyncio.sleep(_LOOK_AGAIN_MS / 1000)
            yield set()


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
    try:
        async for _ in looks:
            if await asyncio.to_thread(look) != known:
                break
    except _REFUSALS:
        while await asyncio.to_thread(look) == known:  # noqa: ASYNC110 - nobody tells of a save now
            await asyncio.sleep(_LOOK_AGAIN_MS / 1000)
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
    found = _found(wanted)
    if root in places:
        for path, mark in _found(_visible(root)).items():
            is_file = len(mark) > 1
            if is_file or (places[root] and not os.path.islink(path)):  # no pattern follows a link
                found[path] = mark
    return found


def _found(paths: Iterable[str]) -> dict[str, Mark]:
    """What there is of these, with its mark."""
    found: dict[str, Mark] = {}
    for path in paths:
        try:
            is_at = os.stat(path)
        except OSError:  # it may also be a link to itself
            continue
        inner = stat.S_ISDIR(is_at.st_mode)
        found[path] = (is_at.st_ino,) if inner else (is_at.st_ino, is_at.st_size, is_at.st_mtime_ns)
    return found


def _visible(root: str) -> list[str]:
    """What lies in the project's folder and is nobody's secret."""
    try:
        entries = list(os.scandir(root))
    except OSError:  # it is being replaced
        return []
    return [
        entry.path
        for entry in entries
        if not entry.name.startswith(".") and entry.name not in _IGNORED_FOLDERS
    ]
