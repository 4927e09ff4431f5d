"""Starts coverage in a process of the server or of the tests, for `tests/measure.py`."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import coverage

FOLDER, SOURCE = "MEASURED_IN", "MEASURED_CODE"
"""The variables that tell the processes of the tests."""


def tests() -> Callable[[], None]:
    """Measure this process if it is asked for; what ends that."""
    if FOLDER not in os.environ:
        return lambda: None
    collecting = contextlib.ExitStack()
    measured = _coverage(os.environ[FOLDER], os.environ[SOURCE])
    collecting.callback(measured.save)
    collecting.enter_context(measured.collect())
    return collecting.close


def _coverage(folder: str, source: str) -> coverage.Coverage:
    measured = coverage.Coverage(
        data_file=os.path.join(folder, "coverage"),
        data_suffix=True,
        branch=True,
        source=[source],
        config_file=False,
    )
    measured._warn_no_data = False
    measured._warn_unimported_source = False
    return measured


@functools.cache  # an interpreter may come across its .pth files more than once
def begin(folder: str, source: str) -> Measurement:
    """Measure this process of the server from now on, and its forks, unnoticed by them.

    Args:
        folder: for the data.
        source: the folder whose code is measured.
    """
    return Measurement(folder, source)


class Measurement:
    """What this process and its forks run; see `begin`."""

    def __init__(self, folder: str, source: str) -> None:
        self._folder, self._source = folder, source
        self._begin()
        os._exit = self._saving(os._exit)  # `atexit` does not see it
        os.register_at_fork(after_in_child=self._begin_again)

    def _begin(self) -> None:
        self._coverage = _coverage(self._folder, self._source)
        self._coverage._auto_save = True
        self._coverage.start()

    def _begin_again(self) -> None:
        """What was run before the fork is the parent's to tell."""
        self._coverage._auto_save = False
        self._coverage.stop()
        self._begin()

    def _saving(self, leave: Callable[..., Any]) -> Callable[..., Any]:
        def saved(*arguments: Any) -> Any:
            with contextlib.suppress(Exception):
                self._coverage.save()
            return leave(*arguments)

        return saved
