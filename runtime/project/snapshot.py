"""A function's files at one moment: what a generation is made of.

The digest of paths, contents and entry file names the generation. Files keep the path
that they have from the parent folder on, which the function's own folder and `_shared/`
have in common: `hello/index.py`, `_shared/db.py`, and `../assets/page.html` for a static
file from elsewhere in the project.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import time
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from runtime.errors import ConfigError
from runtime.project import static
from runtime.project.settings import Function
from runtime.project.skipped import is_skipped

MAX_BYTES = 64 * 1024 * 1024
SHARED = "_shared"

_ATTEMPTS = 5
_PAUSE_S = 0.02

Mark = tuple[int, int, int, int]
"""What changes when a file is written or replaced: inode, size, times of content and inode."""


class Snapshot(msgspec.Struct, frozen=True):
    """A function's files.

    Attributes:
        digest: 16 hexadecimal digits; equal for equal files and entry points.
        directory: the folder that the paths are relative to.
        entrypoint: path of the entry file, which need not exist.
        files: content by POSIX path.
    """

    digest: str
    directory: str
    entrypoint: str
    files: dict[str, bytes]

    def __repr__(self) -> str:
        return f"Snapshot({self.entrypoint!r}, {self.digest}, {len(self.files)} files)"


def take(function: Function) -> Snapshot:
    """Read a function's folder, its static files, and the `_shared` folder if the function names it.

    Taken are regular files whose real place is inside these folders (of static files: inside
    the project). Folders that are links are not entered; tests are left out. If anything
    changes meanwhile it starts again, so that no half-written file and no mixture of two
    saves is taken.

    Raises:
        ConfigError: together they are over 64 MB, a file cannot be read, it never stands still, or
            static files lie outside the project.
    """
    static.check(function)
    parent = os.path.dirname(function.directory)
    entrypoint = posixpath.join(function.name, function.entrypoint.replace(os.sep, "/"))
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S)
        before, asked_for = _marks(function)
        files = _read_all(parent, before)
        after, _ = _marks(function)
        if files is not None and before == after:
            files = _used(files, asked_for)
            return Snapshot(digest_of(files, entrypoint), parent, entrypoint, files)
    restless = sorted(path for path, _ in before.items() ^ after.items())
    raise ConfigError(
        "keeps changing while it is read",
        where=_place(parent, restless[0] if restless else function.name),
        remedy="write data outside the function's folder; its files are its code",
    )


def _used(files: dict[str, bytes], asked_for: Iterable[str]) -> dict[str, bytes]:
    """Without `_shared`, if the function never names it: what it cannot use must not reload it.

    Args:
        asked_for: paths of its static files, which may lie there.
    """
    own = {path: data for path, data in files.items() if not path.startswith(f"{SHARED}/")}
    if any(SHARED.encode() in data for data in own.values()):
        return files
    return own | {path: files[path] for path in asked_for}


def digest_of(files: Mapping[str, bytes], entrypoint: str) -> str:
    """The name of a generation: every path, length and content counts, the order does not."""
    digest = hashlib.sha256()
    for part in (entrypoint.encode(), *_parts(files)):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]


def _parts(files: Mapping[str, bytes]) -> Iterator[bytes]:
    for path in sorted(files):
        yield path.encode()
        yield files[path]


def archive(snapshot: Snapshot) -> bytes:
    """The files as msgpack, `{path: bytes}`; equal for equal files."""
    return msgspec.msgpack.encode({path: snapshot.files[path] for path in sorted(snapshot.files)})


def _marks(function: Function) -> tuple[dict[str, Mark], list[str]]:
    """Every file that belongs to the snapshot, with its mark; and which of them are static files.

    Raises:
        ConfigError: they are over the limit.
    """
    parent = os.path.dirname(function.directory)
    marks = dict(_walk(function.directory, function.name, function.entrypoint))
    marks |= dict(_walk(os.path.join(parent, SHARED), SHARED))
    marks |= (static_files := dict(_static(function)))
    if sum(mark[1] for mark in marks.values()) > MAX_BYTES:
        biggest = max(marks, key=lambda path: marks[path][1])
        raise ConfigError(
            f'the files of "{function.name}" and {SHARED} are over {MAX_BYTES >> 20} MB; '
            f"this is the biggest, {marks[biggest][1] >> 20} MB",
            where=_place(parent, biggest),
            remedy="move data out of the function's folder, or give it a name that begins with a dot",
        )
    return marks, list(static_files)


def _static(function: Function) -> Iterator[tuple[str, Mark]]:
    parent, root = os.path.dirname(function.directory), os.path.realpath(function.root)
    for path in static.find(function).files:
        if mark := _mark(path, root):
            yield _inside("", os.path.relpath(path, parent)), mark


def _walk(folder: str, prefix: str, entrypoint: str = "") -> Iterator[tuple[str, Mark]]:
    base = os.path.realpath(folder)
    for directory, folders, names in os.walk(base, onerror=_unreadable):
        folders[:] = [name for name in folders if not is_skipped(name)]
        for name in names:
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, base)
            if (not is_skipped(name) or relative == entrypoint) and (mark := _mark(path, base)):
                yield _inside(prefix, relative), mark


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise _cannot_read(error.filename, error)


def _cannot_read(path: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot be read: {error.strerror}",
        where=path,
        remedy="make it readable for this user, or move it out of the function's folder",
    )


def _mark(path: str, base: str) -> Mark | None:
    """None if it is no regular file, lies outside, or has just gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    if os.path.islink(path) and not os.path.realpath(path).startswith(base + os.sep):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _inside(prefix: str, relative: str) -> str:
    path = posixpath.join(prefix, relative.replace(os.sep, "/"))
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "the name of a file is not UTF-8", where=ascii(path), remedy="rename the file"
        ) from None
    return path


def _place(parent: str, path: str) -> str:
    """Where a file of the snapshot lies; `..` is not left to the system, which follows links first."""
    return os.path.normpath(os.path.join(parent, path))


def _read_all(parent: str, marks: Mapping[str, Mark]) -> dict[str, bytes] | None:
    """The content of every file; None if one of them has gone or is not as long as it was."""
    files = {}
    for path, mark in marks.items():
        try:
            with open(_place(parent, path), "rb") as file:
                # One byte more shows that it has grown, without reading what has no end.
                files[path] = file.read(mark[1] + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _cannot_read(_place(parent, path), error) from None
        if len(files[path]) != mark[1]:
            return None
    return files
