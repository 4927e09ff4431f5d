"""Ending what the workers of a dead server have started."""

from __future__ import annotations

import os
import signal


def end(sessions: set[int]) -> None:
    """Kill every process whose session is led by one of these pids."""
    for name in _listdir("/proc"):
        if name.isdigit() and _session(name) in sessions:
            try:
                os.kill(int(name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _session(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return 0
    return int(line[line.rindex(b")") + 2 :].split()[3])
