"""Clients that each send a text when they have their last answer, and what they saw."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec


class Outcome(msgspec.Struct, frozen=True):
    """What came of some texts.

    Attributes:
        took: seconds from the first text sent to the last answer.
        waits: seconds that each text waited for its answer, in their order; of a call with all
            of them, none.
        cpu: seconds of CPU, of all processes that serve.
        resident: bytes of memory, of the process that has the model.
    """

    took: float
    waits: list[float]
    cpu: float
    resident: int


class Loop:
    """A fixed number of clients who work through a list of texts together.

    Args:
        run: what serves; it gets `at_once` texts at most, as they arrived.
        threads: how many runs may be in flight.
    """

    def __init__(
        self, run: Callable[[Sequence[str]], object], texts: Sequence[str], at_once: int, threads: int
    ) -> None:
        self._run, self._texts = run, texts
        self._at_once, self._threads = at_once, threads
        self._next = self._done = 0
        self._failed: BaseException | None = None
        self._waiting: deque[tuple[int, float]] = deque()
        self._changed = threading.Condition()
        self.waits = [0.0] * len(texts)
        """Seconds that each text waited."""

    def go(self, clients: int) -> float:
        """Serve all texts; seconds that it took. What a run raises ends it, and is raised here."""
        began = time.perf_counter()
        self._send(clients)
        workers = [threading.Thread(target=self._work) for _ in range(self._threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self._failed is not None:
            raise self._failed
        return time.perf_counter() - began

    def _send(self, count: int) -> None:
        upto = min(self._next + count, len(self._texts))
        self._waiting.extend((place, time.perf_counter()) for place in range(self._next, upto))
        self._next = upto

    def _work(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            with self._changed:
                self._failed = error
                self._changed.notify_all()

    def _serve(self) -> None:
        while batch := self._take():
            self._run([self._texts[place] for place, _ in batch])
            now = time.perf_counter()
            with self._changed:
                for place, began in batch:
                    self.waits[place] = now - began
                self._done += len(batch)
                self._send(len(batch))
                self._changed.notify_all()

    @property
    def _ended(self) -> bool:
        return self._failed is not None or self._done == len(self._texts)

    def _take(self) -> list[tuple[int, float]]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._ended:
                return []
            return [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
