"""Gives the inference threads their batches.

All state lives on the event loop; a thread sees one batch and gives its results back.
There is no window to wait in: as soon as a thread is free, what waits is run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from runtime.engine.batcher import BUDGET, Item, Policy, Run
from runtime.errors import EngineUnavailable

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Rows = NDArray[float32]
    _Results = Sequence[Rows | Exception]

log = logging.getLogger("runtime.engine")


class Pair(msgspec.Struct, frozen=True):
    """Two texts that a cross-encoder reads as one; as long as its ids are.

    Attributes:
        types: which of the two a token belongs to, 0 or 1.
    """

    ids: Sequence[int]
    types: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


Text = Sequence[int] | Pair
"""Token ids, special tokens included."""


class Form(NamedTuple):
    """What a call wants to have made of the model's output.

    Attributes:
        dimensions: keep so many of a row's numbers, before it is normalised; 0: all of them.
    """

    mean_pool: bool = True
    normalize: bool = True
    dimensions: int = 0


class Model(Protocol):
    """What the scheduler needs of a model. Its methods run on threads, several at once.

    Attributes:
        packs: texts of different lengths may run in one batch.
        wide: a text alone would run on many cores, now.
    """

    @property
    def packs(self) -> bool: ...

    @property
    def wide(self) -> bool: ...

    def infer(
        self, batch: Sequence[Text], forms: Sequence[Form], *, alone: bool = False
    ) -> Sequence[Rows | Exception]:
        """Rows of each text of a batch: one row, or one per token; a cross-encoder's: one number.

        A text that has no usable result (its vector is not finite) has an exception in its
        place, and the others their rows. Raising fails the batch: each of its texts is then
        run once more by itself, and what raises again is that text's error.

        Args:
            batch: texts of one length, or of any lengths if the model packs.
            alone: one text that found nothing else running; if the model was `wide`, up to
                `MOST_CORES` cores have been left to it.
        """
        ...


class _Job:
    """The texts of one call that wait for their vectors together."""

    def __init__(self, model: Model, texts: Sequence[Text], form: Form) -> None:
        self.model, self.texts, self.form = model, texts, form
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rows: list[Rows | None] = [None] * len(texts)
        self.error: Exception | None = None
        self._missing = len(texts)

    @property
    def over(self) -> bool:
        """Nobody waits for it any more."""
        return self.done.done()

    def take(self, place: int, result: Rows | Exception) -> None:
        if isinstance(result, Exception):
            self.fail(result)
            return
        self.rows[place] = result
        self._missing -= 1
        if not self._missing and not self.over:
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.over:
            self.error = error
            self.done.set_result(None)


class Scheduler:
    """A queue and `threads` threads that work it off."""

    def __init__(self, threads: int, budget: int = BUDGET) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        self._policy = Policy(threads, budget)
        self._jobs: dict[int, _Job] = {}
        self._ids = count()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Texts in the queue that no thread has taken yet."""
        return len(self._policy.queue)

    async def run(
        self,
        model: Model,
        texts: Sequence[Text],
        form: Form,
        turn: Hashable = None,
        *,
        heavy: bool = False,
    ) -> list[Rows]:
        """Rows of each text, in order. Cancelling it takes what has not run out of the queue.

        Args:
            turn: calls with the same one have one turn together; None: this one has its own.
            heavy: it may take minutes, as all calls of its turn; one thread is kept from such calls.

        Raises:
            EngineUnavailable: the engine is leaving, or the system has no thread for it.
            Exception: what the model raised for one of the texts.
        """
        if not texts:
            return []
        if self._closed:
            raise _leaving()
        job, key = _Job(model, texts, form), next(self._ids)
        self._jobs[key] = job
        self._policy.queue.add(_items(key, job, turn, heavy))
        try:
            self._start_threads()
            await job.done
        finally:
            self._policy.queue.cancel(key)
            del self._jobs[key]
        if job.error is not None:
            raise job.error
        return [rows for rows in job.rows if rows is not None]

    def close(self) -> None:
        """Start nothing more; what runs on a thread cannot be stopped and is not waited for."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for job in self._jobs.values():
            job.fail(_leaving())

    def _start_threads(self) -> None:
        while run := self._policy.next():
            items = [item for item in run.items if not self._jobs[item.call].over]
            if items:
                self._start(run, items)
            else:
                self._policy.ended(run)

    def _start(self, run: Run, items: list[Item]) -> None:
        jobs = [self._jobs[item.call] for item in items]
        batch = [job.texts[item.place] for job, item in zip(jobs, items, strict=True)]
        work = partial(_infer, jobs[0].model, batch, [job.form for job in jobs], run.alone)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError as error:  # the pool is closed, or the system gives no thread
            self._policy.ended(run)
            self._deliver(items, [_no_thread(error)] * len(items))
        else:
            future.add_done_callback(partial(self._finished, run, items))

    def _finished(self, run: Run, items: list[Item], future: asyncio.Future[_Results]) -> None:
        self._policy.ended(run)
        if future.cancelled():
            return  # closed: its calls have been told
        lost = future.exception()
        self._deliver(items, future.result() if lost is None else [_no_thread(lost)] * len(items))
        self._start_threads()

    def _deliver(self, items: list[Item], results: _Results) -> None:
        for item, result in zip(items, results, strict=True):
            job = self._jobs.get(item.call)
            if job is not None:
                job.take(item.place, result)


def _items(key: int, job: _Job, turn: Hashable, heavy: bool) -> Iterator[Item]:
    """The longest text first: the last batches are short, and end together."""
    model, lengths = job.model, [len(text) for text in job.texts]
    packs, wide = model.packs, model.wide
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        yield Item(key, place, lengths[place], id(model), packs, turn, wide, heavy)


def _infer(model: Model, batch: Sequence[Text], forms: Sequence[Form], alone: bool = False) -> _Results:
    """Runs on a thread. A batch that fails is run text by text: one bad text fails by itself."""
    try:
        results = model.infer(batch, forms, alone=alone)
        if len(results) != len(batch):
            raise RuntimeError(f"{len(results)} results of {len(batch)} texts")
        return results
    except Exception as error:
        if len(batch) == 1:
            return [error]
    return [_infer(model, [text], [form])[0] for text, form in zip(batch, forms, strict=True)]


def _leaving() -> EngineUnavailable:
    return EngineUnavailable("The inference engine is shutting down; try again shortly")


def _no_thread(error: BaseException) -> EngineUnavailable:
    log.error("an inference thread failed: %r", error)
    return EngineUnavailable("The inference engine has no thread for this call; the server's log says why")
