"""Gives the inference threads their batches.

All state lives on the event loop; a thread sees one batch and gives its results back.
There is no window to wait in: as soon as a thread is free, what waits is run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol

from runtime.engine.batcher import BUDGET, Batcher, Item

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Rows = NDArray[float32]


class Form(NamedTuple):
    """What a call wants to have made of the model's output."""

    mean_pool: bool = True
    normalize: bool = True


class Model(Protocol):
    """What the scheduler needs of a model."""

    def infer(self, batch: Sequence[Sequence[int]], forms: Sequence[Form]) -> list[Rows]:
        """Rows of each text of a batch of texts of one length: one row, or one per token."""
        ...


class _Job:
    """The texts of one call that wait for their vectors together."""

    def __init__(
        self, model: Model, texts: Sequence[Sequence[int]], form: Form, done: asyncio.Future[None]
    ) -> None:
        self.model, self.texts, self.form, self.done = model, texts, form, done
        self.rows: dict[int, Rows] = {}

    def take(self, index: int, rows: Rows) -> None:
        self.rows[index] = rows
        if len(self.rows) == len(self.texts) and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Scheduler:
    """A queue and `threads` threads that work it off."""

    def __init__(self, threads: int, budget: int = BUDGET) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        self._free = threads
        self._budget = budget
        self._queue = Batcher()
        self._jobs: dict[int, _Job] = {}
        self._ids = count()

    @property
    def waiting(self) -> int:
        """Texts in the queue that no thread has taken yet."""
        return len(self._queue)

    async def run(self, model: Model, texts: Sequence[Sequence[int]], form: Form) -> list[Rows]:
        """Rows of each text, in order. Cancelling it takes what has not run out of the queue."""
        job = _Job(model, texts, form, asyncio.get_running_loop().create_future())
        key = next(self._ids)
        self._jobs[key] = job
        self._queue.add(Item(key, index, len(ids), id(model)) for index, ids in enumerate(texts))
        try:
            self._start_threads()
            if texts:
                await job.done
        finally:
            self._queue.cancel(key)
            del self._jobs[key]
        return [job.rows[index] for index in range(len(texts))]

    def close(self) -> None:
        """Start nothing more; what runs on a thread cannot be stopped and is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start_threads(self) -> None:
        loop = asyncio.get_running_loop()
        while self._free and self._queue:
            # A short queue is shared out, so that a few texts do not run one after the
            # other on one thread while another one idles.
            share = -(-self._queue.tokens // self._free)
            items = self._queue.take(min(self._budget, share))
            jobs = [self._jobs[item.call] for item in items]
            batch = [job.texts[item.place] for job, item in zip(jobs, items, strict=True)]
            self._free -= 1
            future = loop.run_in_executor(self._pool, jobs[0].model.infer, batch, [job.form for job in jobs])
            future.add_done_callback(partial(self._finished, items))

    def _finished(self, items: list[Item], future: asyncio.Future[list[Rows]]) -> None:
        self._free += 1
        if future.cancelled():
            return
        error = future.exception()
        rows = [] if error else future.result()
        for place, item in enumerate(items):
            job = self._jobs.get(item.call)
            if job is None:
                continue
            if error is not None:
                job.fail(error)
            else:
                job.take(item.place, rows[place])
        self._start_threads()
