"""Starts coverage in a process of the server; `tests/measure.py` says when.

It runs before anything of ours, from a .pth file, and must not be noticed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import coverage

# Templates and workers are not measured: they are forked in their hundreds, and the tests of
# runtime/worker run the same code in their own process.
_MEASURED = ("runtime.cli.main", "runtime.supervisor", "runtime.gateway", "runtime.engine")


class Measurement:
    """What this process and its forks run of runtime/."""

    def __init__(self, folder: str, source: str) -> None:
        self._folder, self._source = folder, source
        self._begin()
        for leave in ("_exit", "execve"):  # atexit sees neither
            setattr(os, leave, self._saving(getattr(os, leave)))
        os.register_at_fork(after_in_child=self._begin_again)

    def _begin(self) -> None:
        self._coverage = coverage.Coverage(
            data_file=os.path.join(self._folder, "coverage"),
            data_suffix=True,
            branch=True,
            source=[self._source],
            config_file=False,
        )
        self._coverage._warn_no_data = False
        self._coverage._warn_unimported_source = False
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


def begin(folder: str, source: str) -> None:
    """Measure this process, if it is one of the server's.

    Args:
        folder: for the data.
        source: the folder whose code is measured.
    """
    if any(argument in _MEASURED for argument in sys.orig_argv):
        Measurement(folder, source)
