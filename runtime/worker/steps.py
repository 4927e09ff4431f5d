"""Coroutines whose steps are charged: a step is what runs from one suspension to the next."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

from runtime.context import current
from runtime.ledger import NOBODY_RUNS, RUNNING, SINCE

if TYPE_CHECKING:
    from runtime.worker.accounting import Meter

_clock = time.thread_time_ns


class Charged:
    """A coroutine whose steps are charged; in all else it is the one that it wraps.

    A generator does it, whose methods are this one's: between the event loop and the
    function's code there is then one Python frame, which lives on from step to step.
    """

    __slots__ = ("_coroutine", "close", "send", "throw")

    def __init__(self, meter: Meter, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        steps = _steps(meter, coroutine)
        next(steps)
        self.send, self.throw, self.close = steps.send, steps.throw, steps.close

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # the frame, the name, the code: what tools look at

    def __repr__(self) -> str:
        return repr(self._coroutine)


def _bare(error: BaseException) -> BaseException:
    """The same, without the frame that caught it: a traceback is the function's, and we are no part of it."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return error


def _steps(meter: Meter, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Each `send` or `throw`, after a first `next`, is one step of the coroutine."""
    words, nobody, of = meter.ledger.words, meter.nobody, current.get  # found once, used in every step
    result: Any = None
    while True:
        step: Any = coroutine.send
        try:
            value = yield result
        except BaseException as error:
            step, value, result = coroutine.throw, _bare(error), None  # a future that failed holds its error
        call = of()
        account = nobody if call is None else call.account or nobody
        outer, now = meter.running, _clock()
        if outer is not None:  # a task that is started eagerly runs inside a step of another
            outer.cost += now - meter.since
        if account.late:
            meter.resume(account)
        meter.running, meter.since = account, now
        words[SINCE], words[RUNNING] = now - account.cost, account.slot + 1
        try:
            result = step(value)
        except StopIteration as end:
            return end.value
        except BaseException as error:
            _bare(error)
            raise
        finally:
            now, value = _clock(), None  # an error must not hold this frame, which holds the error
            account.cost += now - meter.since
            meter.running, words[RUNNING] = outer, NOBODY_RUNS
            if account.cost > account.limit:
                meter.over(account)
            if outer is not None:
                meter.since = now
                meter.ledger.enter(outer.slot, now - outer.cost)
