"""Which request the processor works for, and when it has worked enough for it.

Every coroutine step of a task, and every call on a thread, is charged to the request whose
context it runs in, wherever the task or the call came from: the handler, a task that it
started, work given to `wait_until`, a thread of its own. What a request waits for, such as
a model, costs it nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio.to_thread

from runtime.context import current
from runtime.ledger import Ledger
from runtime.worker import inherit
from runtime.worker.calls import ThreadCall, stack_of
from runtime.worker.steps import Charged

NO_LIMIT = 1 << 62
_FREE_PART = 4  # of a core, for what goes on after the answer; as the gateway has it for a worker at rest
_now = time.monotonic_ns
_GRACE_NS = 100_000_000  # what a request may still take for cleaning up, once it was cancelled


class Account:
    """What one request has taken.

    What outlives its answer may take a quarter of a core for as long as it likes: a task that
    a request was the first to need may serve all that follow. What it takes beyond adds up.

    Attributes:
        name: the request's id.
        slot: of its connection; `nobody`'s once the request is answered.
        cost: nanoseconds of processor time.
        limit: how many it may take. -1: nobody counts.
        exceeded: it took more.
        late: the request's id, once it is answered.
        stop: called when it does, once; None: the request is answered.
    """

    __slots__ = ("cost", "exceeded", "forgiven_at", "last", "late", "limit", "name", "slot", "stop")

    def __init__(self, name: str, slot: int, limit: int) -> None:
        self.name, self.slot, self.cost = name, slot, 0
        self.limit = limit
        self.last = NO_LIMIT  # what it may take until it is no longer waited for
        self.exceeded, self.late = False, b""
        self.forgiven_at = 0
        self.stop: Callable[[], None] | None = None

    def release(self, nobody: int) -> None:
        """Its request is answered: its connection will carry another."""
        self.slot, self.late = nobody, self.name.encode()
        self.forgiven_at = _now()

    def forgive(self) -> None:
        """Its request is answered: what it may take for ever does not count."""
        now = _now()
        self.cost = max(self.cost - (now - self.forgiven_at) // _FREE_PART, 0)
        self.forgiven_at = now


class Meter:
    """Charges accounts, on one event loop.

    Attributes:
        nobody: the account of what belongs to no request: it has no limit.
        on_call: called, on any thread, when a call on a thread begins.
        on_overrun: called when a call on a thread goes on that took more than its request may, before
            the request is told.
        on_exceeded: called when a request has taken more than it may.
        on_resisted: called when a request goes on although it was cancelled for its costs.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.nobody = Account("", ledger.nobody, -1)
        self.running: Account | None = None
        self.since = 0  # the clock's reading when that one's step began, or went on
        self.calls: set[ThreadCall] = set()
        self.on_call: Callable[[], None] = lambda: None
        self.on_overrun: Callable[[ThreadCall], None] = lambda call: None
        self.on_exceeded: Callable[[Account], None] = lambda account: None
        self.on_resisted: Callable[[Account], None] = lambda account: None

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Charge what happens on this loop, and on all threads."""
        self.charge_tasks(loop)
        inherit.install(self.on_thread)
        # Frameworks call this one to run plain functions; it has no hook of its own.
        run_sync: Any = self._charging(anyio.to_thread.run_sync, loop)
        anyio.to_thread.run_sync = run_sync

    def charge_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Charge the steps of every task that is made on this loop from now on."""
        factory: Any = self.task
        loop.set_task_factory(factory)

    def task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        """A task whose steps are charged."""
        charged: Any = Charged(self, coroutine)
        return asyncio.Task(charged, loop=loop, **options)

    def account(self, name: str, slot: int, limit_ms: int) -> Account:
        """For a request; `limit_ms` 0: it may take as much as it likes."""
        return Account(name, slot, limit_ms * 1_000_000 or NO_LIMIT)

    def account_after(self, account: Account) -> Account:
        """For work that outlives this one's request."""
        after = Account(account.name, self.nobody.slot, account.limit)
        after.release(self.nobody.slot)
        return after

    def release(self, account: Account) -> None:
        """Its request is answered: its connection will carry another."""
        account.release(self.nobody.slot)
        if self.running is account:
            self.ledger.name(account.late)
            self.ledger.disown()

    def resume(self, account: Account) -> None:
        """A step begins that goes on after the answer."""
        account.forgive()
        self.ledger.name(account.late)

    def over(self, account: Account) -> None:
        """A step ended, and its request has taken more than it may."""
        if account is self.nobody:
            account.cost = 0  # only a step of it that does not end is noticed, by the gateway
            return
        self.exceed(account)
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            task.cancel()

    def exceed(self, account: Account) -> None:
        """The request has taken more than it may."""
        if not account.exceeded:
            account.exceeded = True
            account.last = account.cost + _GRACE_NS
            self.on_exceeded(account)
            if account.stop is not None:
                account.stop()
        elif account.cost > account.last:
            account.last = NO_LIMIT
            self.on_resisted(account)

    # threads

    def on_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that will be called on a thread, so that it is charged to the current request."""
        call = current.get()
        if call is None or call.account is None:
            return function
        return ThreadCall(self, call.account, function)

    def begun(self, call: ThreadCall) -> None:
        """A call begins, on its thread."""
        self.calls.add(call)
        self.on_call()

    def settle(self, call: ThreadCall) -> bool:
        """Charge what a call on a thread has taken since it was last charged; whether it has."""
        account, more = call.account, call.taken() - call.charged
        if call.ended:
            self.calls.discard(call)
        if not more:
            return False
        if account.late:
            account.forgive()
        call.charged += more
        account.cost += more
        if account.cost > account.limit and not (call.ended and account.exceeded):
            if not (call.ended or account.exceeded):
                self.on_overrun(call)
            self.exceed(account)
        return True

    def settle_all(self) -> bool:
        """Charge what threads have taken so far; whether one of them has taken anything."""
        return any([self.settle(call) for call in tuple(self.calls)])

    def where(self, account: Account) -> str:
        """What its threads are doing right now, as a traceback shows it; empty: it has none."""
        found = sys._current_frames()
        threads = [call.thread for call in tuple(self.calls) if call.account is account and not call.ended]
        return "\n".join(stack_of(found[thread]) for thread in threads if thread in found)

    def _charging(self, run_sync: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> Callable[..., Any]:
        async def charging(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            call = self.on_thread(function)
            is_ours = asyncio.get_running_loop() is loop  # a function may run another, on a thread
            try:
                return await run_sync(call, *arguments, **options)
            finally:
                if is_ours and isinstance(call, ThreadCall):
                    self.settle(call)

        return charging
