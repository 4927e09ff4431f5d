"""Looking at workers from outside."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import frames
from runtime.gateway import watch as watch_module
from runtime.gateway.pool import Pool
from runtime.gateway.responsestream import ResponseStream
from runtime.gateway.watch import BLOCKED_S, Burning, Stillness, Watch, over
from runtime.gateway.worker import Worker
from runtime.ledger import Pulse
from runtime.proc import cpu_of
from tests.gateway.house import House, generation, until

PULSES = st.builds(Pulse, st.integers(0, 2), st.integers(-1, 2), st.integers(0, 2))


@given(st.lists(st.tuples(st.floats(0, 1), PULSES, st.booleans()), min_size=1))
def test_an_event_loop_stands_still_for_as_long_as_it_should_do_something_and_does_not(
    looks: list[tuple[float, Pulse, bool]],
) -> None:
    stillness, now, since = Stillness(), 0.0, 0.0
    before: Pulse | None = None
    for pause, pulse, expected in looks:
        now += pause
        if not expected or pulse != before:
            since = now
        before = pulse if expected else None
        assert stillness.seconds(now, pulse, expected=expected) == pytest.approx(now - since)


@given(st.lists(st.builds(Burning, st.integers(-1, 5), st.integers(0, 10**10), st.integers(0, 1000))))
def test_only_one_over_its_limit_is_found_and_none_is_further_over(burning: list[Burning]) -> None:
    found = over(burning)
    excess = [one.cost - one.limit * 1_000_000 for one in burning if one.limit]
    if found is None:
        assert all(amount <= 0 for amount in excess)
    else:
        assert found.cost - found.limit * 1_000_000 == max(excess) > 0


@pytest.mark.skipif(cpu_of(os.getpid(), os.getpid()) is None, reason="there is no /proc here")
def test_the_processor_time_of_a_thread_is_read_from_outside() -> None:
    before, mine = cpu_of(os.getpid(), threading.get_native_id()), time.thread_time_ns()
    while time.thread_time_ns() - mine < 30_000_000:
        pass
    after = cpu_of(os.getpid(), threading.get_native_id())
    assert before is not None
    assert after is not None
    assert 10_000_000 < after - before < 60_000_000


def test_a_thread_that_is_not_there_has_none() -> None:
    assert cpu_of(os.getpid(), 2**22 + 1) is None


# --- over workers -------------------------------------------------------------------------


class Look:
    """A pool with one worker, and a watch whose time the test makes."""

    def __init__(self, house: House, pool: Pool) -> None:
        self.house, self.pool, self.now = house, pool, time.monotonic() + 60
        self.watch: Watch = house.services.watch

    @property
    def worker(self) -> Worker:
        return self.pool.workers[0]

    def after(self, seconds: float) -> bool:
        self.now += seconds
        return self.watch.look(self.now)


async def started(house: House, **limits: Any) -> Look:
    pool = Pool(generation(**limits), 3, house.services)
    await pool.start()
    pool.workers[0].usage = None  # its process is played
    return Look(house, pool)


@pytest.mark.anyio
async def test_a_worker_that_has_nothing_to_do_is_not_blocked(house: House) -> None:
    look = await started(house)
    assert [look.after(5.0) for _ in range(3)] == [False] * 3
    assert not look.worker.blocked
    await look.pool.close(0, "test")


@pytest.mark.anyio
async def test_a_blocked_worker_is_noticed_once_gets_nothing_and_is_used_again(house: House) -> None:
    look = await started(house, max_workers=1)
    worker = look.pool.take()
    assert worker is look.worker
    house.workers[0].ledger.beat()
    assert look.after(0.0)
    look.after(BLOCKED_S - 0.01)
    blocked = [worker.blocked]
    for _ in range(3):
        look.after(0.05)
        blocked.append(worker.blocked)
    assert blocked == [False, True, True, True]
    assert look.pool.take() is None
    assert look.pool.series.blocked == 1
    await until(lambda: house.dumps == [worker.pid])
    house.workers[0].ledger.beat()
    look.after(0.05)
    assert look.pool.take() is worker
    await look.pool.close(0, "test")


@pytest.mark.anyio
async def test_a_worker_whose_event_loop_lives_is_not_blocked(house: House) -> None:
    look = await started(house)
    worker = look.pool.take()
    assert worker is not None
    for _ in range(40):
        house.workers[0].ledger.beat()
        look.after(0.1)
    assert not worker.blocked
    await look.pool.close(0, "test")


async def carrying(look: Look, *names: str, begun: bool = True) -> list[ResponseStream]:
    """Connections of its worker with requests of these ids."""
    streams = []
    for name in names:
        stream = await look.worker.open()
        head = frames.Head(request_id=name, method="GET", path="/", raw_path=b"/", headers=[], more=False)
        stream.begin(head, lambda: None)
        if begun:
            look.house.workers[0].ledger.begin(stream.slot)
        look.worker.in_flight += 1
        streams.append(stream)
    return streams


@pytest.mark.anyio
async def test_a_worker_whose_answers_are_not_read_is_not_blocked(house: House) -> None:
    look = await started(house, timeout_s=3)
    await carrying(look, "slow")
    house.workers[0].ledger.beat()
    house.workers[0].ledger.rest()
    for _ in range(10):
        assert look.after(1.0)
        assert not look.worker.blocked
    assert look.worker.free
    await look.pool.close(0, "test")


@pytest.mark.anyio
async def test_a_worker_that_does_not_begin_with_what_it_was_given_is_blocked(house: House) -> None:
    look = await started(house)
    await carrying(look, "new", begun=False)
    look.after(0.0)
    look.after(BLOCKED_S)
    assert look.worker.blocked
    await look.pool.close(0, "test")


@pytest.mark.anyio
@pytest.mark.parametrize("others", [0, 1])
async def test_what_a_callback_takes_is_charged_to_the_request_when_there_is_one_alone(
    house: House, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    look = await started(house, cpu_ms=100)
    streams = await carrying(look, "one", *["other"] * others)
    house.workers[0].ledger.beat()
    worker, cpu = look.worker, 0
    monkeypatch.setattr(watch_module, "cpu_of", lambda pid, thread: cpu)
    while not worker.dead:
        look.after(0.05)
        cpu += 50_000_000
    sentences = [type(stream.sentence).__name__ for stream in streams]
    assert sentences == (["WorkerError"] * 2 if others else ["WorkerLimit"])
    await look.pool.close(0, "test")


@pytest.mark.anyio
async def test_work_given_to_wait_until_is_that_of_its_request(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = await started(house, cpu_ms=100)
    streams = await carrying(look, "one", "two")
    ledger = house.workers[0].ledger
    ledger.name(b"two")
    ledger.enter(ledger.nobody, 0)
    monkeypatch.setattr(watch_module, "cpu_of", lambda pid, thread: 200_000_000)
    worker = look.worker
    for _ in range(2):
        look.after(0.05)
    assert worker.dead
    assert [type(stream.sentence).__name__ for stream in streams] == ["WorkerError", "WorkerLimit"]
    await look.pool.close(0, "test")


@pytest.mark.anyio
async def test_a_step_that_takes_too_much_ends_its_worker(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = await started(house, cpu_ms=100)
    worker = look.pool.take()
    assert worker is not None
    house.workers[0].ledger.enter(0, 7_000_000)
    for cpu, dead in ((100_000_000, False), (107_000_000, False), (107_000_001, True)):
        monkeypatch.setattr(watch_module, "cpu_of", lambda pid, thread, cpu=cpu: cpu)
        look.after(0.05)
        look.after(0.05)
        assert worker.dead is dead
    await until(lambda: house.kills == [worker.pid])
    await until(lambda: any("cpu_ms" in line for line in house.told))
    assert look.pool.series.stops == {"cpu_ms": 1}
    await look.pool.close(0, "test")


@pytest.mark.anyio
async def test_a_loop_that_stands_still_for_longer_than_a_request_may_take_ends_its_worker(
    house: House,
) -> None:
    look = await started(house, timeout_s=3)
    worker = look.pool.take()
    assert worker is not None
    house.workers[0].ledger.beat()
    dead = []
    for _ in range(5):
        look.after(1.0)
        dead.append(worker.dead)
    assert dead == [False] * 4 + [True]
    assert look.pool.series.stops == {"timeout_s": 1}
    await until(lambda: house.kills == [worker.pid])
    await look.pool.close(0, "test")
