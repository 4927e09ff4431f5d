"""Calls on threads, charged to a request."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from runtime.worker import logs

if TYPE_CHECKING:
    from runtime.worker.accounting import Account, Meter

_clock = time.thread_time_ns


class ThreadCall:
    """A call on a thread, charged to a request.

    Attributes:
        charged: nanoseconds that are on the account already.
        thread: Python's number of the thread; 0 until it began.
    """

    __slots__ = (
        "_began",
        "_clock_id",
        "_function",
        "_meter",
        "_taken",
        "account",
        "charged",
        "ended",
        "thread",
    )

    def __init__(self, meter: Meter, account: Account, function: Callable[..., Any]) -> None:
        self._meter, self._function = meter, function
        self.account = account
        self.charged = self.thread = self._taken = self._began = 0
        self._clock_id: int | None = None
        self.ended = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        ledger, slot = self._meter.ledger, self.account.slot
        self._began = _clock()
        self.thread = threading.get_ident()
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock_id = time.pthread_getcpuclockid(self.thread)
        native = threading.get_native_id()
        ledger.employ(slot, native, self._began - self.account.cost)
        self._meter.begun(self)
        function: Any = self._function
        del self._function  # it may hold the thread, and that holds us
        try:
            return function(*arguments, **named)
        finally:
            logs.finish()
            self._taken = _clock() - self._began
            self.ended = True
            if ledger.thread(slot)[0] == native:  # else another works for it by now
                ledger.employ(slot, 0, 0)

    def taken(self) -> int:
        """Nanoseconds so far; from any thread."""
        if self.ended or self._clock_id is None:
            return self._taken
        with contextlib.suppress(OSError):  # its thread has ended in this moment
            return time.clock_gettime_ns(self._clock_id) - self._began
        return self.charged


def stack_of(frame: FrameType) -> str:
    """From the function that was called on a thread to where it is now."""
    entries = list(traceback.walk_stack(frame))
    depth = next((index for index, (f, _) in enumerate(entries) if f.f_code is _ENTRY), len(entries))
    return "".join(traceback.StackSummary.extract(reversed(entries[:depth])).format())


_ENTRY = ThreadCall.__call__.__code__
