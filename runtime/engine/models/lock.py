"""One process at a time works on a model of the store."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def _in_silence() -> None:
    pass


@contextmanager
def locked(target: Path, waiting: Callable[[], None] = _in_silence) -> Iterator[None]:
    """Hold the lock of this model folder; the kernel lets go when a process dies.

    Args:
        target: the folder; it need not exist.
        waiting: called once if another process holds the lock; it may raise, to wait no longer.

    Raises:
        OSError: nothing can be written there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
