"""Who descends from whom, and how to end them. Empty answers where there is no /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable

from runtime import proc

_ROUNDS = 20


def families_of(roots: Iterable[int]) -> set[int]:
    """These processes, their descendants, and the members of the sessions that they lead."""
    children: dict[int, list[int]] = {}
    found, waiting = set[int](), list(roots)
    wanted = set(waiting)
    for stat in filter(None, map(proc.stat, proc.pids())):
        children.setdefault(stat.parent, []).append(stat.pid)
        if stat.session in wanted:
            waiting.append(stat.pid)
    while waiting:
        if (pid := waiting.pop()) not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def strays(parent: int, known: set[int]) -> set[int]:
    """The families of the children of `parent` that are not known."""
    unknown = set(children_of(parent)) - known
    return families_of(unknown) if unknown else unknown


def end_strays(parent: int, known: set[int]) -> None:
    """End the families of the children of `parent` that are not known.

    The kernel's own list of children is quick to read, and may leave some out while others end:
    it says whether there is anything to do, and not when that is done.
    """
    if set(proc.children(parent)) - known:
        end(lambda: strays(parent, known))


def end(find: Callable[[], set[int]]) -> None:
    """Kill all that `find` finds.

    They are stopped first, until none is found that is not: what is stopped starts no others.
    """
    stopped: set[int] = set()
    for _ in range(_ROUNDS):
        if not (running := find() - stopped):
            break
        for pid in running:
            kill(pid, signal.SIGSTOP)
        stopped |= running
    for pid in stopped:
        kill(pid)


def children_of(pid: int) -> list[int]:
    """Direct children that have not ended yet."""
    found = filter(None, map(proc.stat, proc.pids()))
    return [stat.pid for stat in found if stat.parent == pid and stat.state != "Z"]


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
