"""The signs of life of an event loop."""

from __future__ import annotations

import asyncio
import os
from threading import Event, Thread
from typing import Any

import pytest

from runtime.context import Call, current
from runtime.ledger import Ledger, new_file
from runtime.worker import heart
from runtime.worker.accounting import Meter
from runtime.worker.heart import Heart
from tests.gateway.house import until

pytestmark = pytest.mark.anyio


class Body:
    """A heart, and what it beats for."""

    def __init__(self) -> None:
        fd = new_file(4)
        self.meter = Meter(Ledger(fd))
        os.close(fd)
        self.is_busy = False
        self.heart = Heart(self.meter, lambda: self.is_busy)

    @property
    def beats(self) -> int:
        return self.meter.ledger.pulse.beats

    def on_thread(self, work: Any) -> Thread:
        """A thread that works for a request."""
        call = Call("request", "f", 0.0, lambda call, work: asyncio.ensure_future(work))
        call.account = self.meter.account("request", 0, 0)
        token = current.set(call)
        thread = Thread(target=self.meter.on_thread(work))
        current.reset(token)
        thread.start()
        return thread


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart, "BEAT_S", 0.001)


async def test_it_beats_as_long_as_there_is_something_to_do() -> None:
    body = Body()
    body.is_busy = True
    body.heart.start()
    assert body.meter.ledger.is_beating
    await until(lambda: body.beats > 3)
    body.is_busy = False
    await until(lambda: not body.meter.ledger.is_beating)
    before = body.beats
    body.heart.start()
    assert body.beats == before + 1
    await until(lambda: not body.meter.ledger.is_beating)


async def test_what_fails_in_a_beat_does_not_stop_it() -> None:
    body, failures = Body(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    body.is_busy = True

    def fail() -> bool:
        raise OSError("a clock that is gone")

    body.meter.settle_all = fail  # type: ignore[method-assign]
    body.heart.start()
    await until(lambda: body.beats > 3)
    assert len(failures) >= 3
    assert body.meter.ledger.is_beating
    body.is_busy, body.meter.settle_all = False, lambda: False  # type: ignore[method-assign]
    await until(lambda: not body.meter.ledger.is_beating)


async def test_a_thread_starts_it_and_keeps_it_going_while_it_works_not_while_it_waits() -> None:
    body, spins, waits = Body(), Event(), Event()

    def work() -> None:
        while not spins.is_set():
            pass
        waits.wait()

    thread = body.on_thread(work)
    await until(lambda: body.beats > 3)
    spins.set()
    await until(lambda: not body.meter.ledger.is_beating)
    assert len(body.meter.calls) == 1
    waits.set()
    thread.join()
    body.heart.start()
    await until(lambda: not body.meter.calls)
