"""Folders that a function fills: how much lies in them, and their removal.

A function may put anything there: links that lead elsewhere, pipes, folders a thousand
levels deep, folders that nobody may read. So no link is followed, every folder is opened
from the one above it, and nothing goes deeper than it has descriptors for.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator

_BLOCK = 512
_PER_NAME = 4096
_DEEPEST = 64
_INTO = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def size_of(folder: str, *, stop_at: int) -> int:
    """Bytes that a folder's content takes on the disk; for a thread, as disks may be slow.

    Holes of sparse files take nothing, and a file of many names counts once. Each name counts
    as 4096 bytes at least. Not seen: what was deleted while open, and folders closed to us.

    Args:
        stop_at: enough; nothing more is looked at, and this is the answer. It is the answer
            also to folders nested more than 64 deep.
    """
    tally = _Tally(stop_at)
    with contextlib.suppress(OSError):
        _measure(os.open(folder, _INTO), tally, _DEEPEST)
    return min(tally.total, stop_at)


class _Tally:
    """What was counted so far."""

    def __init__(self, stop_at: int) -> None:
        self.total = 0
        self._stop_at = stop_at
        self._seen: set[tuple[int, int]] = set()

    @property
    def full(self) -> bool:
        return self.total >= self._stop_at

    def fill(self) -> None:
        self.total = self._stop_at

    def add(self, found: os.stat_result) -> None:
        size = found.st_blocks * _BLOCK
        if found.st_nlink > 1:
            identity = (found.st_dev, found.st_ino)
            size = 0 if identity in self._seen else size
            self._seen.add(identity)
        self.total += max(size, _PER_NAME)


def _measure(handle: int, tally: _Tally, levels: int) -> None:
    try:
        with os.scandir(handle) as entries:
            for entry in entries:
                if tally.full:
                    return
                with contextlib.suppress(OSError):  # gone meanwhile, or closed to us
                    tally.add(entry.stat(follow_symlinks=False))
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    if levels == 0:
                        tally.fill()
                    else:
                        _measure(os.open(entry.name, _INTO, dir_fd=handle), tally, levels - 1)
    finally:
        os.close(handle)


def remove(folder: str, *, seconds: float = 60.0) -> bool:
    """Remove a folder and all in it, however deep; whether it is gone.

    Folders inside are brought up to the first level one after another, so that two
    descriptors suffice for any depth.

    Args:
        seconds: when to give up, should somebody keep on filling it.
    """
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        top = _opened(folder)
        try:
            _empty(top, deadline)
        finally:
            os.close(top)
        os.rmdir(folder)
    return not os.path.lexists(folder)


def _empty(top: int, deadline: float) -> None:
    fresh = (f"{os.urandom(8).hex()}-{number}" for number in itertools.count())
    given_up: set[str] = set()
    while names := set(os.listdir(top)) - given_up:
        for name in names:
            if time.monotonic() > deadline:
                return
            try:
                _take_out(name, top, fresh)
            except OSError:
                given_up.add(name)


def _take_out(name: str, top: int, fresh: Iterator[str]) -> None:
    """Remove one entry of `top`; the folders in it become entries of `top`."""
    try:
        os.unlink(name, dir_fd=top)
        return
    except (IsADirectoryError, PermissionError):  # Linux and macOS, of a folder
        inner = _opened(name, top)
    try:
        for each in os.listdir(inner):
            try:
                os.unlink(each, dir_fd=inner)
            except (IsADirectoryError, PermissionError):
                os.close(_opened(each, inner))  # who moves a folder must be allowed to write to it
                os.rename(each, next(fresh), src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _opened(path: str, at: int | None = None) -> int:
    """Open a folder, also one that was closed to its owner."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, _INTO, dir_fd=at)
        if os.fstat(handle).st_mode & 0o700 == 0o700:
            return handle
        os.fchmod(handle, 0o700)
        return handle
    if not hasattr(os, "O_PATH"):
        raise PermissionError(path)
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)  # this very folder, whatever has its name by now
    finally:
        os.close(place)
    return os.open(path, _INTO, dir_fd=at)
