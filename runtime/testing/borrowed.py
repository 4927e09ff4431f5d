"""What a function changes of the process that it runs in, put back when it has left."""

from __future__ import annotations

import contextlib
import gc
import linecache
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

from runtime.ai import host as hosts
from runtime.worker import logs
from runtime.worker.loader import ROOT, SnapshotFinder

_RUNNERS = ("PYTEST_", "COV_", "COVERAGE_")  # the test runner's own variables
Emit = Callable[[str, str, str], None]


@contextlib.contextmanager
def process(folder: str, emit: Emit) -> Iterator[None]:
    """Lend the process to one function.

    Inside, nothing of `folder` is imported from the disk: a test runner puts the folders of
    its tests on `sys.path`, and the function's modules come from its snapshot.

    Args:
        folder: the parent of the function's folder.
        emit: takes what the worker logs.
    """
    tempfile.gettempdir()  # known from now on, so that no TMPDIR of a function's decides it
    with _environment(), _modules(folder), _host(), _log(emit), _lines():
        yield
    gc.unfreeze()  # a worker lives as long as what exists at its start, a test's process longer


def enter(environ: Mapping[str, str]) -> None:
    """Make these the variables, but for the test runner's own."""
    for name in [name for name in os.environ if not name.startswith(_RUNNERS)]:
        del os.environ[name]
    os.environ.update(environ)
    time.tzset()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if not name.startswith(_RUNNERS)}
    try:
        yield
    finally:
        enter(before)


@contextlib.contextmanager
def _modules(folder: str) -> Iterator[None]:
    path, finders = sys.path[:], sys.meta_path[:]
    stashed = {
        name: module
        for name, module in sys.modules.items()
        if _inside(folder, getattr(module, "__file__", None)) and not _is_test(name)
    }
    sys.path[:] = [entry for entry in path if not _inside(folder, entry)]
    _forget(stashed)
    try:
        yield
    finally:
        forget_function()
        sys.path[:], sys.meta_path[:] = path, finders
        sys.modules.update(stashed)


def forget_function() -> None:
    """No module of a function is loaded any more, under whatever name."""
    _forget([name for name, module in sys.modules.items() if _of_function(module)])
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, SnapshotFinder)]


def _of_function(module: ModuleType) -> bool:
    name = getattr(module, "__name__", None)
    return isinstance(name, str) and (name == ROOT or name.startswith(f"{ROOT}."))


def _forget(names: Mapping[str, ModuleType] | list[str]) -> None:
    for name in names:
        sys.modules.pop(name, None)


def _inside(folder: str, path: object) -> bool:
    if not isinstance(path, str) or not path:
        return False
    return f"{os.path.abspath(path)}/".startswith(f"{folder}/")


def _is_test(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.startswith("test_") or last.endswith("_test") or last == "conftest"


@contextlib.contextmanager
def _host() -> Iterator[None]:
    before = hosts.current()
    try:
        yield
    finally:
        hosts.use(before)


@contextlib.contextmanager
def _log(emit: Emit) -> Iterator[None]:
    before = logs.emit
    logs.emit = lambda level, text, request_id="": emit(level, text, request_id)
    try:
        yield
    finally:
        logs.emit = before


@contextlib.contextmanager
def _lines() -> Iterator[None]:
    before, level = linecache.cache.copy(), logging.getLogger("httpx2").level
    try:
        yield
    finally:
        linecache.cache.clear()
        linecache.cache.update(before)
        logging.getLogger("httpx2").setLevel(level)
