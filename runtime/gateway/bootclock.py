"""The time that a worker has to become ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from runtime import proc

_LOOKS = 10  # while the time runs
_MOST = 10  # times the limit: longer than that nobody is merely kept waiting


def waited_s(pid: int) -> float:
    """Seconds for which a process was ready to run and had no processor; 0 where nobody can tell."""
    numbers = proc.read(f"/proc/{pid}/schedstat").split()
    return int(numbers[1]) / 1e9 if len(numbers) > 1 else 0.0


def _nobody() -> int:
    return 0


@contextlib.asynccontextmanager
async def limited(
    seconds: float, pid: Callable[[], int], waited: Callable[[int], float] = waited_s
) -> AsyncIterator[None]:
    """`asyncio.timeout` that counts only what is the worker's own.

    It has no part in the time until its process exists, nor in that for which others had the
    processors: when two hundred functions load at once, each takes as long as all of them.

    Args:
        seconds: 0: no limit.
        pid: of its process; 0 before there is one.
        waited: how long that has waited for a processor.
    """
    loop = asyncio.get_running_loop()
    began = born = loop.time()
    timer: asyncio.TimerHandle | None = None
    async with asyncio.timeout(seconds or None) as timeout:

        def look() -> None:
            nonlocal born, timer
            process = pid()
            if not process:
                born = loop.time()
            lost = born - began + (waited(process) if process else 0.0)
            if not timeout.expired():
                timeout.reschedule(began + min(seconds + lost, _MOST * seconds))
            timer = loop.call_later(seconds / _LOOKS, look)

        if seconds:
            timer = loop.call_later(seconds / _LOOKS, look)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            pid = _nobody  # `look` knows itself, and through this a worker
