"""Where the workers of one generation come from."""

from __future__ import annotations

import os
from collections.abc import Callable

from runtime.gateway.generation import Generation
from runtime.gateway.metrics import Series
from runtime.gateway.services import Services
from runtime.gateway.worker import BootFailure, Worker, file_for_workers

_ATTEMPTS = 3


class Cradle:
    """Brings workers up.

    Args:
        slot: number of the function, for its unprivileged user.
    """

    def __init__(self, generation: Generation, slot: int, services: Services, series: Series) -> None:
        self._generation, self._slot, self._services, self._series = generation, slot, services, series
        self._archive = -1
        self._is_closed = False

    async def worker(self, on_end: Callable[[Worker, str], None]) -> Worker:
        """One that came up. One that dies on the way, without saying why, is tried again.

        Args:
            on_end: told when it ends, and how.

        Raises:
            BootFailure: it did not.
        """
        if self._archive < 0:
            self._archive = file_for_workers(self._generation.archive)
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._attempt(on_end)
            except BootFailure as failure:
                if not failure.crashed or self._is_closed:
                    raise
        return await self._attempt(on_end)

    async def _attempt(self, on_end: Callable[[Worker, str], None]) -> Worker:
        worker = Worker(self._generation, self._slot, self._services, self._series)
        await worker.boot(self._archive, on_end)
        return worker

    def shut(self) -> None:
        """Try none again."""
        self._is_closed = True

    def close(self) -> None:
        """Bring no more up."""
        if self._archive >= 0:
            os.close(self._archive)
            self._archive = -1
