"""Loading a function from its snapshot.

Modules come from the snapshot alone, never from the disk, so that nothing mixes versions.
They live under a private package, so a function called `queue` shadows nothing and two
functions may have files of the same name:

    _function                   the snapshot's root
    _function.NAME.index        functions/NAME/index.py
    _function._shared.x         functions/_shared/x.py

`from . import util` and `from .._shared import x` work; so do `import util` and
`import _shared.x`, which find the same modules, after the standard library and the
installed packages. Sources are compiled by us under their original file names, so that
tracebacks name them, and no bytecode is written or read. `__file__` is where this version
lies on disk, which is another place when the worker wrote it out.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = "_function"
_TEST = re.compile(r"test_.*|.*_test|conftest")  # as runtime.project.skipped has them
_LEFT_OUT = "files called test_*.py, *_test.py or conftest.py are left out of a function; rename it"


class SnapshotFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one snapshot.

    Args:
        files: content by path, as `NAME/index.py`.
        directory: where the files came from.
        home: where they lie now, for `__file__`.
        name: the function's name.
        injected: globals that the entry module has from the start.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        directory: str,
        home: str,
        name: str,
        entry: str,
        injected: dict[str, Any],
    ) -> None:
        self._directory, self._home, self._name = directory, home, name
        # Nothing else is imported, and other files may be large.
        self._files = {path: data for path, data in files.items() if path.endswith(".py")}
        self._entry, self._injected = entry, injected
        self._folders = {
            "/".join(path.split("/")[:depth]) for path in files for depth in range(path.count("/") + 1)
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] == ROOT:
            return self._private_spec(fullname)
        private = self._private_name(fullname)
        if self._private_spec(private) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, _Alias(private))

    def _private_name(self, fullname: str) -> str:
        """The private module that a function means by an absolute import."""
        shared = fullname == "_shared" or fullname.startswith("_shared.")
        return f"{ROOT}.{fullname}" if shared else f"{ROOT}.{self._name}.{fullname}"

    def _private_spec(self, fullname: str) -> importlib.machinery.ModuleSpec | None:
        location, is_package = self._locate(fullname)
        if location is None:
            self._check_left_out(fullname)
            return None
        spec = importlib.machinery.ModuleSpec(
            fullname, self, origin=f"{self._home}/{location}", is_package=is_package
        )
        spec.has_location = True
        return spec

    def _check_left_out(self, fullname: str) -> None:
        """Say why a file that its author sees cannot be imported.

        Raises:
            ModuleNotFoundError: it is a test, which a function has not. It tells no name, or
                `from . import test_x` would take it for a missing attribute.
        """
        *folders, name = fullname.split(".")[1:] or [""]
        if _TEST.fullmatch(name) is None:
            return
        path = os.path.join(self._directory, *folders, f"{name}.py")
        is_hidden = not os.access(self._directory, os.X_OK)  # from the user that workers run as
        if is_hidden or os.path.isfile(path):
            raise ModuleNotFoundError(f"No module named {name!r}: {_LEFT_OUT}")

    def _locate(self, fullname: str) -> tuple[str | None, bool]:
        """The path inside the snapshot, and whether it is a package; (None, …): there is none."""
        stem = "/".join(fullname.split(".")[1:])
        if f"{stem}/__init__.py" in self._files:
            return f"{stem}/__init__.py", True
        if f"{stem}.py" in self._files:
            return f"{stem}.py", False
        return (stem, True) if stem in self._folders else (None, False)

    # what the import system asks of a loader

    def is_package(self, fullname: str) -> bool:
        return self._locate(fullname)[1]

    def get_source(self, fullname: str) -> str | None:
        path, _ = self._locate(fullname)
        data = self._files.get(path or "")
        return None if data is None else importlib.util.decode_source(data)

    def get_code(self, fullname: str) -> CodeType:
        path, _ = self._locate(fullname)
        if path is None:
            raise ImportError(f"no module {fullname!r}", name=fullname)
        data = self._files.get(path)
        if data is None:  # a folder without __init__.py is an empty package, and no file to look for
            return compile(b"", "<package>", "exec", dont_inherit=True)
        origin = f"{self._directory}/{path}"
        self._remember_lines(origin, data)
        return compile(data, origin, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == self._entry:
            module.__dict__.update(self._injected)
        exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102 - this is what a loader does

    def get_resource_reader(self, fullname: str) -> _Resources:
        """For `importlib.resources.files(__package__)`."""
        return _Resources(Path(self._home, *fullname.split(".")[1:]))

    @staticmethod
    def _remember_lines(origin: str, data: bytes) -> None:
        """Tracebacks shall show this version's lines, whatever the disk holds by then."""
        text = data.decode("utf-8", "replace")
        linecache.cache[origin] = (len(text), None, text.splitlines(keepends=True), origin)


class _Resources:
    """A package's folder, as `importlib.resources` asks for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self) -> Path:
        return self._folder


class _Alias(importlib.abc.Loader):
    """Lets an absolute import find the private module, instead of loading it twice."""

    def __init__(self, private: str) -> None:
        self._private = private

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._private)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just overwritten the module's own spec with the alias's.
        module.__spec__ = self._spec


def load(
    files: Mapping[str, bytes],
    directory: str,
    name: str,
    entrypoint: str,
    injected: dict[str, Any],
    home: str = "",
) -> ModuleType:
    """Import the entry module of a function.

    Args:
        home: where the files lie now; empty: still in `directory`.

    Raises:
        ImportError: the entry file is not in the snapshot.
        BaseException: whatever the module itself raises.
    """
    stem = entrypoint.removesuffix(".py")
    entry = f"{ROOT}." + stem.replace("/", ".")
    if entrypoint not in files:
        raise ImportError(f"{directory}/{entrypoint} does not exist")
    sys.meta_path.append(SnapshotFinder(files, directory, home or directory, name, entry, injected))
    return importlib.import_module(entry)


def line_of(error: BaseException, directory: str) -> str:
    """The author's line that met the error, as `PATH:LINE`; empty: it was none of theirs."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    own = (frame for frame in frames if frame.filename.startswith(directory + "/"))
    return next((f"{frame.filename}:{frame.lineno}" for frame in own), "")


def traceback_of(error: BaseException, directory: str) -> str:
    """The traceback as its author wants to read it: without the frames above their own code."""
    frame = error.__traceback__
    while frame is not None and not frame.tb_frame.f_code.co_filename.startswith(directory + "/"):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))
