"""Files that lie in memory: a function can write gigabytes to them without mapping a byte.

They are those that have no name (`memfd_create`, or deleted while open) and those in /dev/shm.
What a worker has open can be seen by root alone, and not in every container.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator

from runtime import folders

SHARED = "/dev/shm"

_BLOCK = 512
_DOOMED_S = 5.0  # who keeps others from removing it is measured again
_doomed: dict[int, float] = {}  # users, and until when
_UNNAMED, _DELETED = "/memfd:", " (deleted)"


def size(pids: Iterable[int], user: int, stop_at: int, sharers: int = 1) -> int:
    """Bytes that the files in memory of a worker's user take; may be slow.

    Those of others do not count: the server's, which a worker has open too, are its.

    Args:
        pids: the worker and its descendants.
        stop_at: enough; nothing more is looked at.
        sharers: workers that the user has: what is in /dev/shm counts for each of them in equal shares.
    """
    alone = is_other(user)
    seen: set[tuple[int, int]] = set()
    shared = 0
    if alone and time.monotonic() >= _doomed.get(user, 0):
        enough = stop_at * sharers
        shared = _add_up(_named(user), user, _in_folders(user, enough), enough, seen) // sharers
    return _add_up(itertools.chain(*(_open(pid, alone) for pid in pids)), user, shared, stop_at, seen)


def _add_up(paths: Iterable[str], user: int, total: int, stop_at: int, seen: set[tuple[int, int]]) -> int:
    """Add what files take that were not seen yet."""
    for path in paths:
        if total >= stop_at:
            break
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if found.st_uid == user and (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * _BLOCK
    return total


def is_other(user: int) -> bool:
    """It is not ours: then all that it has is its worker's, or another's of the same function."""
    return user != os.geteuid()


def doom(user: int) -> None:
    """What a user has in /dev/shm will be removed: until then, or for 5 s, it is not its next worker's."""
    _doomed[user] = time.monotonic() + _DOOMED_S


def remove(user: int) -> None:
    """Remove what a user has left in /dev/shm."""
    for entry in _entries(user):
        if _is_folder(entry):
            folders.remove(entry.path)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
    _doomed.pop(user, None)


def _in_folders(user: int, stop_at: int) -> int:
    return sum(folders.size_of(one.path, stop_at=stop_at) for one in _entries(user) if _is_folder(one))


def _named(user: int) -> Iterator[str]:
    return (one.path for one in _entries(user) if one.is_file(follow_symlinks=False))


def _open(pid: int, alone: bool) -> Iterator[str]:
    """What a process has open; of a user who is alone only what has no name any more."""
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except OSError:
        return
    for number in numbers:
        path = f"{folder}/{number}"
        with contextlib.suppress(OSError):
            target = os.readlink(path)
            in_shared = target.startswith(f"{SHARED}/") and (not alone or target.endswith(_DELETED))
            if in_shared or target.startswith(_UNNAMED):
                yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _entries(user: int) -> list[os.DirEntry[str]]:
    """What a user has in /dev/shm."""
    found = []
    with contextlib.suppress(OSError), os.scandir(SHARED) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == user:
                    found.append(entry)
    return found
