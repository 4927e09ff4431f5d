"""Work that outlives its response."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest

from runtime.context import Call
from runtime.ledger import Ledger, new_file
from runtime.worker import logs
from runtime.worker.accounting import Meter
from runtime.worker.kept import Kept

pytestmark = pytest.mark.anyio

MS = 1_000_000


class Host:
    """A worker, as this work sees it."""

    def __init__(self) -> None:
        fd = new_file(4)
        self.meter = Meter(Ledger(fd))
        os.close(fd)
        self.meter.charge_tasks(asyncio.get_running_loop())
        self.left: list[Call] = []
        self.kept = Kept(self, lambda: None)

    def call(self, limit_ms: int = 0) -> Call:
        call = Call("request", "f", 0.0, self.kept.keep)
        call.account = self.meter.account(call.id, 0, limit_ms)
        return call

    def linger(self, call: Call, task: asyncio.Task[Any]) -> None:
        if not task.done():
            self.left.append(call)

    def explain(self, error: BaseException) -> str:
        return repr(error)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(logs, "emit", lambda level, text, request_id="": texts.append(text))
    return texts


@pytest.fixture
async def host() -> Any:
    yield Host()
    asyncio.get_running_loop().set_task_factory(None)


def burn(ms: float) -> None:
    end = time.thread_time_ns() + int(ms * MS)
    while time.thread_time_ns() < end:
        pass


async def steps(count: int) -> str:
    for _ in range(count):
        burn(1)
        await asyncio.sleep(0)
    return "done"


async def test_each_piece_of_work_may_take_as_much_as_a_request(host: Host, told: list[str]) -> None:
    call = host.call(limit_ms=20)
    call.account.cost = 19 * MS
    tasks = [call.keep(call, steps(15)) for _ in range(3)]
    assert await asyncio.gather(*tasks) == ["done"] * 3
    assert call.account.cost == 19 * MS
    assert told == []
    assert len(host.kept) == 0


async def test_one_that_takes_more_is_cancelled_alone(
    host: Host, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.worker.accounting._now", time.thread_time_ns)
    call = host.call(limit_ms=10)
    other, one = call.keep(call, steps(5)), call.keep(call, steps(1000))
    with pytest.raises(asyncio.CancelledError):
        await one
    assert await other == "done"
    assert told == ["work given to wait_until was cancelled (cpu_ms)"]
    assert not call.cancelled
