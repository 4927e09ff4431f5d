"""Reading /proc: who descends from whom. Empty answers where there is no /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Entry(NamedTuple):
    """One process."""

    pid: int
    state: str
    parent: int
    session: int


def entries() -> Iterator[Entry]:
    """Every process that this machine shows us."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit():
            entry = read(int(name))
            if entry is not None:
                yield entry


def read(pid: int) -> Entry | None:
    """One process, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The name in parentheses may hold anything, so fields are counted from its end.
    fields = line[line.rindex(b")") + 2 :].split()
    return Entry(pid, fields[0].decode(), int(fields[1]), int(fields[3]))


def of_sessions(sessions: Iterable[int]) -> list[int]:
    """Processes that belong to one of these sessions (a session's number is its leader's pid)."""
    wanted = set(sessions)
    return [entry.pid for entry in entries() if entry.session in wanted]


def children_of(pid: int) -> list[int]:
    """Direct children that have not ended yet."""
    return [entry.pid for entry in entries() if entry.parent == pid and entry.state != "Z"]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def end_descendants(seconds: float = 5.0) -> None:
    """Kill until nothing descends from us: what a killed process leaves becomes a subreaper's child."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid in children_of(os.getpid()):
            kill(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)
