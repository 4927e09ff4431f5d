"""What a worker was doing, out of what `faulthandler` wrote of its threads."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^(?=.*\(most recent call first\):$)", re.MULTILINE)


def theirs(written: str, directory: str) -> str:
    """The threads that run a function's code, each down to its first call; else all of them, with a word.

    Args:
        directory: where the function's files are.
    """
    threads = [thread.strip() for thread in _HEADING.split(written) if thread.strip()]
    own = [kept for thread in threads if (kept := _down_to(thread, f'"{directory}/'))]
    return "\n".join(own or (["None of its threads runs the function's code:", *threads] if threads else ()))


def _down_to(thread: str, mark: str) -> str:
    """The lines up to the last with this mark: what follows is how the runtime got there."""
    lines = thread.splitlines()
    last = max((index for index, line in enumerate(lines) if mark in line), default=-1)
    return "\n".join(lines[: last + 1])
