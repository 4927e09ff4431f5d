"""`[functions.NAME] static_files`: files from elsewhere in the project that belong to a function.

A pattern is relative to `supabase/` (as the peer has it), to the project, or to the
function's folder: whichever of the three has a file for it. `*` and `?` stay within one
name, `**` is any number of folders, and a pattern that leads to a folder means all of it.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from runtime.errors import ConfigError
from runtime.project.config import PATH
from runtime.project.settings import Function
from runtime.project.skipped import is_skipped

_ANY_FOLDERS = "**"
_MAGIC = frozenset("*?[")
_LEADS_AWAY = "it leads out of the project, or to what begins with a dot"


class Pattern(NamedTuple):
    """A pattern inside the project.

    Attributes:
        root: the project.
        folder: the names, from the project on, before the first that has a wildcard.
        rest: the names that remain; each may have wildcards.
    """

    root: str
    folder: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def start(self) -> str:
        """The folder that holds everything it can match."""
        return os.path.join(self.root, *self.folder)

    @property
    def goes_deep(self) -> bool:
        """It can match in folders below `start`."""
        return len(self.rest) > 1 or _ANY_FOLDERS in self.rest


class Found(NamedTuple):
    """The files of every pattern of one function: absolute paths; and what a person should know."""

    files: list[str]
    notes: list[str]


def check(function: Function) -> None:
    """Refuse patterns that can only match outside the project.

    Raises:
        ConfigError: there is one.
    """
    for text in function.static_files:
        if not _candidates(function, text):
            raise ConfigError(
                f'"{text}" lies outside the project {function.root}',
                where=f"{os.path.join(function.root, PATH)}: functions.{function.name}.static_files",
                remedy="move the files into the project; a function gets nothing from outside",
            )


def find(function: Function) -> Found:
    """What the patterns match now. Names that begin with a dot are never matched."""
    files, notes = list[str](), list[str]()
    for text in function.static_files:
        matched, refused = _first_matched(function, text)
        files += matched
        place = f"{PATH}: functions.{function.name}.static_files"
        notes += [f"{place}: {path} is left out: {_LEADS_AWAY}" for path in refused]
        if not matched and not refused and _candidates(function, text):  # else `check` says why
            notes.append(f'{place}: "{text}" matches no file (names that begin with a dot never count)')
    return Found(sorted(set(files)), notes)


def places(functions: Iterable[Function]) -> dict[str, bool]:
    """The folders in which a file can come to belong to a function; true: those below them too."""
    found: dict[str, bool] = {}
    for function in functions:
        for text in function.static_files:
            for pattern in _candidates(function, text):
                if _stays_inside(pattern.start, function.root):
                    found[pattern.start] = found.get(pattern.start, False) or pattern.goes_deep
    return found


def _first_matched(function: Function, text: str) -> tuple[list[str], list[str]]:
    """The files of the first base that has any, and links among them that lead too far."""
    refused: list[str] = []
    root = os.path.realpath(function.root)
    for pattern in _candidates(function, text):
        start = os.path.realpath(pattern.start)
        if not _is_inside(start, root):
            refused.append(pattern.start)
            continue
        inside: list[str] = []
        for path in _matches(pattern):
            # No folder that is a link is entered, so that only the file itself can lead elsewhere.
            relative = path[len(pattern.start) :].lstrip(os.sep)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(start, relative)
            (inside if _is_inside(real, root) else refused).append(path)
        if inside:
            return inside, refused
    return [], refused


def _candidates(function: Function, text: str) -> list[Pattern]:
    """The pattern as it reads from each base, where it stays inside the project."""
    root = function.root
    found = []
    for base in (os.path.join(root, "supabase"), root, function.directory):
        relative = os.path.relpath(os.path.join(base, text), root)
        parts = tuple(relative.split(os.sep))
        if parts[0] == os.pardir:
            continue
        parts = () if relative == os.curdir else parts
        if os.path.isdir(os.path.join(root, relative)):
            parts += (_ANY_FOLDERS, "*")
        plain = next((at for at, part in enumerate(parts) if _MAGIC & set(part)), len(parts) - 1)
        found.append(Pattern(root, parts[:plain], parts[plain:]))
    return list(dict.fromkeys(found))


def _matches(pattern: Pattern) -> Iterator[str]:
    if any(map(is_skipped, pattern.folder)):
        return
    for directory, folders, names in os.walk(pattern.start):
        relative = os.path.relpath(directory, pattern.start)
        above = () if relative == os.curdir else tuple(relative.split(os.sep))
        wanted = _ANY_FOLDERS in pattern.rest or len(above) + 1 < len(pattern.rest)
        folders[:] = [name for name in folders if wanted and not is_skipped(name)]
        for name in names:
            path = os.path.join(directory, name)
            is_out = is_skipped(name) or path == os.path.join(pattern.root, PATH)
            if not is_out and _fits((*above, name), pattern.rest):
                yield path


def _fits(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == _ANY_FOLDERS:
        return any(_fits(path[start:], pattern[1:]) for start in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _stays_inside(path: str, root: str) -> bool:
    """Its real place is in the project, and nothing hidden; the configuration is nobody's file."""
    return _is_inside(os.path.realpath(path), os.path.realpath(root))


def _is_inside(real: str, root: str) -> bool:
    if real == root:
        return True
    inner = real.removeprefix(root.rstrip(os.sep) + os.sep)
    return inner not in (real, PATH) and not any(map(is_skipped, inner.split(os.sep)))
