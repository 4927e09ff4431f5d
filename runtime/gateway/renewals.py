"""Workers that are to be replaced, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runtime.gateway.worker import BootFailure, Worker


class Renewals:
    """Those of one pool, in the order in which they were found.

    Args:
        replace: has another take a worker's place, and sees it off for this reason.
        failed: told when the other does not come up; the worker stays among those to be replaced.
    """

    def __init__(
        self, replace: Callable[[Worker, str], Awaitable[None]], failed: Callable[[BootFailure], None]
    ) -> None:
        self._replace, self._failed = replace, failed
        self._due: dict[Worker, str] = {}
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._due)

    def add(self, worker: Worker, reason: str) -> None:
        """Replace it, when `go_on` says so and its turn comes."""
        self._due.setdefault(worker, reason)

    def go_on(self) -> None:
        """Begin, or begin again after a failure."""
        if self._due and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._due:
                worker, reason = next(iter(self._due.items()))
                await self._replace(worker, reason)
                self._due.pop(worker, None)
        except BootFailure as failure:
            self._failed(failure)

    def close(self) -> None:
        """Replace no more."""
        self._due.clear()
        if self._task is not None:
            self._task.cancel()
