"""Which functions there are: folders in `functions/` and `supabase/functions/`."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from runtime.errors import ConfigError
from runtime.project.config import PATH, Config, Declared
from runtime.project.settings import Function

FOLDERS = ("functions", os.path.join("supabase", "functions"))
ENTRYPOINT = "index.py"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FOREIGN = "index.ts"


class Folder(NamedTuple):
    """A folder that may hold a function."""

    name: str
    path: str
    entrypoint: str

    @property
    def runs(self) -> bool:
        return os.path.isfile(os.path.join(self.path, self.entrypoint))

    @property
    def is_foreign(self) -> bool:
        """It holds a function for the peer's runtime and none for ours."""
        return not self.runs and os.path.isfile(os.path.join(self.path, _FOREIGN))


def find_functions(root: str, config: Config) -> tuple[dict[str, Function], list[str]]:
    """The functions of a project by name, and notes about folders and tables that are none.

    A folder without its entry file counts if `[functions.NAME]` declares it, so that
    calling it tells what is missing.

    Raises:
        ConfigError: two folders have the same name, or an entry file lies outside its folder.
    """
    notes: list[str] = []
    folders = list(_folders(root, config, notes))
    functions: dict[str, Function] = {}
    for name in sorted({folder.name for folder in folders}):
        same = [folder for folder in folders if folder.name == name]
        candidates = [folder for folder in same if folder.runs] or _declared_only(
            same, config.functions, notes
        )
        if len(candidates) > 1:
            raise _doubled(candidates)
        if candidates:
            functions[name] = _function(candidates[0], root, config)
    for name in config.functions.keys() - {folder.name for folder in folders}:
        notes.append(f"{PATH}: functions.{name} is ignored: there is no function of that name")
    return functions, sorted(notes)


def _folders(root: str, config: Config, notes: list[str]) -> Iterator[Folder]:
    seen = set()
    for parent in (os.path.join(root, folder) for folder in FOLDERS):
        for name in sorted(_entries(parent)):
            path = os.path.join(parent, name)
            if name.startswith((".", "_")) or not os.path.isdir(path):
                continue
            # One of the two may be a link to the other.
            if (real := (name, os.path.realpath(path))) in seen:
                continue
            seen.add(real)
            if NAME.fullmatch(name):
                yield Folder(name, path, _entrypoint(name, path, root, config))
            elif os.path.isfile(os.path.join(path, ENTRYPOINT)):
                notes.append(
                    f"{path} is ignored: a function's name is a letter, then letters, digits, _ or -"
                )


def _entries(parent: str) -> list[str]:
    try:
        return os.listdir(parent)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=parent,
            remedy="make it a folder that this user may read",
        ) from None


def _entrypoint(name: str, path: str, root: str, config: Config) -> str:
    """The entry file relative to the function's folder.

    In the configuration it is relative to `supabase/`, as the peer has it, to the project,
    or to the function's folder, whichever leads into that folder.
    """
    declared = config.functions.get(name, Declared()).options.get("entrypoint")
    if declared is None:
        return ENTRYPOINT
    for base in (os.path.dirname(config.file), root, path):
        file = os.path.relpath(os.path.join(base, declared), path)
        if not _leaves(file) and not _leaves(os.path.relpath(_real(path, file), os.path.realpath(path))):
            return file
    raise ConfigError(
        f'"{declared}" lies outside the function\'s folder {path}',
        where=f"{config.file}: functions.{name}.entrypoint",
        remedy='use a file in that folder, such as "main.py"; shared code belongs in _shared beside it',
    )


def _leaves(relative: str) -> bool:
    return relative.split(os.sep)[0] in (os.curdir, os.pardir)


def _real(path: str, file: str) -> str:
    return os.path.realpath(os.path.join(path, file))


def _declared_only(folders: list[Folder], declared: Mapping[str, Declared], notes: list[str]) -> list[Folder]:
    for folder in folders:
        if folder.is_foreign:
            notes.append(f"{folder.path} is ignored: {_FOREIGN} is no Python; {ENTRYPOINT} would be served")
    return [folder for folder in folders if folder.name in declared and not folder.is_foreign][:1]


def _doubled(folders: list[Folder]) -> ConfigError:
    one, other = (folder.path for folder in folders)
    return ConfigError(
        f'the function "{folders[0].name}" exists twice: {one} and {other}',
        where=one,
        remedy="rename or remove one of the two folders",
    )


def _function(folder: Folder, root: str, config: Config) -> Function:
    declared = config.functions.get(folder.name, Declared(limits=config.limits))
    return Function(
        **declared.options
        | {
            "name": folder.name,
            "directory": folder.path,
            "root": root,
            "entrypoint": folder.entrypoint,
            "description": describe(os.path.join(folder.path, folder.entrypoint)),
            "limits": declared.limits,
        }
    )


def describe(path: str) -> str:
    """The first line of a Python file's docstring; empty if it has none or does not parse."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            document = ast.get_docstring(ast.parse(file.read())) or ""
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return document.strip().partition("\n")[0].strip()
