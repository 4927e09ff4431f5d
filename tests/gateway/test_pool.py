"""The workers of one generation, and the queue before them."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import weakref
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import frames, ledger
from runtime.door import Door
from runtime.errors import BootError, Overloaded, ShuttingDown, WorkerLimit
from runtime.gateway import crashes as crashes_module
from runtime.gateway import worker as worker_module
from runtime.gateway.pool import Pool
from runtime.gateway.responsestream import ResponseStream
from runtime.gateway.worker import BootFailure, Worker
from runtime.sharedfile import shared_file
from tests.gateway.house import House, PlayedWorker, generation, turns, until

pytestmark = pytest.mark.anyio


async def started(house: House, **limits: Any) -> Pool:
    pool = Pool(generation(**limits), 3, house.services)
    await pool.start()
    await until(lambda: len(pool.workers) >= pool.generation.function.limits.min_workers)
    return pool


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are short."""
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 0.001)


# --- slots --------------------------------------------------------------------------------


async def test_a_pool_boots_what_its_generation_says(house: House) -> None:
    pool = await started(house)
    (worker,) = house.workers
    assert worker.boot is not None
    assert (worker.boot.function, worker.boot.generation, worker.boot.environ) == (
        "hello",
        "g1",
        {"NAME": "g1"},
    )
    assert worker.archive == pool.generation.archive
    assert (house.forks[0].function, house.forks[0].slot) == ("hello", 3)
    assert pool.state == "ready"
    await pool.close(1, "test")


async def test_slots_are_given_at_once_while_there_are_any(house: House) -> None:
    pool = await started(house, concurrency=2)
    first, second = await pool.acquire(), pool.take()
    assert first is second is pool.workers[0]
    assert pool.take() is None
    assert (pool.in_flight, pool.queued) == (2, 0)
    pool.release(first, None)
    assert pool.take() is first
    await pool.close(0, "test")


async def test_the_least_busy_worker_is_taken(house: House) -> None:
    pool = await started(house, min_workers=3, concurrency=10)
    taken = [await pool.acquire() for _ in range(6)]
    assert sorted(taken.count(worker) for worker in pool.workers) == [2, 2, 2]
    await pool.close(0, "test")


async def test_a_plain_def_has_fewer_slots_unless_a_number_is_given(house: House) -> None:
    house.on_boot = lambda worker: worker.ready(threaded=True)
    assert (await started(house)).workers[0].concurrency == 8
    assert (await started(house, concurrency=20)).workers[0].concurrency == 20


async def test_an_async_function_has_a_hundred_slots(house: House) -> None:
    assert (await started(house)).workers[0].concurrency == 100


async def test_a_kept_connection_is_used_again_and_a_broken_one_is_not(house: House) -> None:
    pool = await started(house)
    worker = await pool.acquire()
    stream = worker.idle.pop()
    pool.release(worker, stream)
    assert worker.idle == [stream]
    worker = await pool.acquire()
    worker.idle.clear()
    stream.abort()
    await until(lambda: stream.closed)
    pool.release(worker, stream)
    assert worker.idle == []
    await pool.close(1, "test")


# --- the queue ----------------------------------------------------------------------------


async def test_those_who_wait_are_served_in_the_order_of_their_coming(house: House) -> None:
    pool = await started(house, concurrency=1)
    worker = await pool.acquire()
    served: list[int] = []

    async def wait(number: int) -> None:
        worker = await pool.acquire()
        served.append(number)
        await asyncio.sleep(0)
        pool.release(worker, None)

    waiting = [asyncio.create_task(wait(number)) for number in range(10)]
    await turns()
    assert pool.queued == 10
    pool.release(worker, None)
    await asyncio.gather(*waiting)
    assert served == list(range(10))
    await pool.close(1, "test")


async def test_nobody_overtakes_those_who_wait(house: House) -> None:
    pool = await started(house, concurrency=1)
    worker = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await turns()
    pool.release(worker, None)  # the slot is the waiter's now, though it has not run yet
    assert pool.take() is None
    assert await waiting is worker
    await pool.close(0, "test")


async def test_a_full_queue_refuses_at_once(house: House) -> None:
    pool = await started(house, concurrency=1, queue=2)
    await pool.acquire()
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
    await turns()
    with pytest.raises(Overloaded) as raised:
        await asyncio.wait_for(pool.acquire(), 0.05)
    assert raised.value.limit == "queue"
    for task in waiting:
        task.cancel()
    await turns()
    assert pool.queued == 0
    await pool.close(0, "test")


async def test_a_queue_without_a_limit_has_none(house: House) -> None:
    pool = await started(house, concurrency=1, queue=0)
    worker = await pool.acquire()
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(1000)]
    await turns()
    assert pool.queued == 1000
    for task in waiting:
        task.cancel()
    await turns()
    pool.release(worker, None)
    await pool.close(1, "test")


async def test_whoever_waits_too_long_is_refused_and_its_place_is_free(house: House) -> None:
    pool = await started(house, concurrency=1, queue_wait_s=0.02)
    worker = await pool.acquire()
    with pytest.raises(Overloaded):
        await pool.acquire()
    assert pool.queued == 0
    pool.release(worker, None)
    assert await pool.acquire() is worker
    await pool.close(0, "test")


async def test_a_waiter_that_leaves_hands_its_slot_on(house: House) -> None:
    pool = await started(house, concurrency=1)
    worker = await pool.acquire()
    leaving, staying = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await turns()
    pool.release(worker, None)  # gives the slot to the first
    leaving.cancel()  # which leaves before it has run
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await staying is worker
    assert worker.in_flight == 1
    await pool.close(0, "test")


async def test_a_waiter_that_leaves_last_frees_the_slot(house: House) -> None:
    pool = await started(house, concurrency=1)
    worker = await pool.acquire()
    leaving = asyncio.create_task(pool.acquire())
    await turns()
    pool.release(worker, None)
    leaving.cancel()
    await turns()
    assert worker.in_flight == 0
    assert pool.take() is worker
    await pool.close(0, "test")


async def test_requests_of_a_booting_function_wait(house: House) -> None:
    house.on_boot = lambda worker: None
    pool = Pool(generation(), 0, house.services)
    starting = asyncio.create_task(pool.start())
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(3)]
    await until(lambda: house.workers and house.workers[0].boot)
    assert pool.state == "booting"
    house.workers[0].ready()
    await starting
    assert await asyncio.gather(*waiting) == pool.workers * 3
    await pool.close(0, "test")


@settings(max_examples=40, deadline=None)
@given(
    slots=st.integers(1, 3),
    limit=st.integers(0, 4),
    steps=st.lists(st.tuples(st.sampled_from(["come", "leave", "finish"]), st.integers(0, 30)), max_size=40),
)
def test_whatever_happens_slots_are_neither_lost_nor_doubled_and_the_order_is_kept(
    slots: int, limit: int, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(_play(slots, limit, steps))


async def _play(slots: int, limit: int, steps: list[tuple[str, int]]) -> None:
    house = House()
    pool = await started(house, concurrency=slots, queue=limit)
    waiting: dict[int, asyncio.Task[Worker]] = {}
    holding: list[Worker] = []
    order: list[int] = []

    async def come(number: int) -> Worker:
        worker = await pool.acquire()
        order.append(number)
        return worker

    for number, (step, which) in enumerate(steps):
        if step == "come":
            await asyncio.sleep(0)  # whoever leaves has left
            full = bool(limit) and pool.queued >= limit
            waiting[number] = asyncio.create_task(come(number))
            await asyncio.sleep(0)
            assert not full or isinstance(waiting.pop(number).exception(), Overloaded)
        elif step == "leave" and waiting:
            waiting.pop(sorted(waiting)[which % len(waiting)]).cancel()
        elif step == "finish" and holding:
            pool.release(holding.pop(which % len(holding)), None)
        if which % 3:  # else the next thing happens in the same turn of the loop
            await turns(4)
        for key in [key for key, task in waiting.items() if task.done()]:
            holding.append(waiting.pop(key).result())
    await turns(4)
    for key in [key for key, task in waiting.items() if task.done()]:
        holding.append(waiting.pop(key).result())
    assert order == sorted(order)
    assert pool.in_flight == len(holding) <= slots
    assert pool.queued == len(waiting)
    assert not waiting or len(holding) == slots
    for task in waiting.values():
        task.cancel()
    await pool.close(0, "test")
    await house.close()


# --- boots that fail ----------------------------------------------------------------------


async def test_a_function_that_does_not_start_refuses_those_who_wait(house: House) -> None:
    house.on_boot = lambda worker: None
    pool = Pool(generation(), 0, house.services)
    failures: list[BootFailure] = []
    pool.on_failure = failures.append
    starting = asyncio.create_task(pool.start())
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(3)]
    await until(lambda: house.workers and house.workers[0].boot)
    house.workers[0].fail("SyntaxError: invalid syntax", "Traceback …")
    with pytest.raises(BootFailure, match="SyntaxError"):
        await starting
    refusals = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(refusal) for refusal in refusals] == [BootError] * 3
    assert (pool.state, pool.last_error) == ("failed", "SyntaxError: invalid syntax")
    assert [failure.detail for failure in failures] == ["Traceback …"]
    await pool.close(0, "test")


async def failed(house: House, **limits: Any) -> Pool:
    house.on_boot = lambda worker: worker.fail("broken")
    pool = Pool(generation(**limits), 0, house.services)
    with pytest.raises(BootFailure):
        await pool.start()
    return pool


async def test_a_failed_function_is_not_booted_at_every_request(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 60.0)
    pool = await failed(house)
    for _ in range(3):
        with pytest.raises(BootError):
            await pool.acquire()
    assert len(house.forks) == 1
    await pool.close(0, "test")


async def test_a_failed_function_is_tried_again_by_a_later_request(house: House) -> None:
    pool = await failed(house)
    house.on_boot = lambda worker: worker.ready()
    await until(lambda: pool._crashes.waiting <= 0)
    assert await pool.acquire() is pool.workers[0]
    assert (pool.state, pool.last_error) == ("ready", "")
    await pool.close(0, "test")


async def test_a_function_that_fails_again_and_again_waits_ever_longer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 0.01)
    pool = await failed(house)
    waits = [pool._crashes.waiting]
    for _ in range(3):
        await until(lambda: pool._crashes.waiting <= 0)
        with pytest.raises(BootError):
            await pool.acquire()
        waits.append(pool._crashes.waiting)
    assert waits == sorted(waits)
    assert waits[3] > 4 * waits[0]
    await pool.close(0, "test")


async def test_a_boot_that_takes_too_long_is_ended_and_says_which_limit_it_was(house: House) -> None:
    house.on_boot = lambda worker: None
    pool = Pool(generation(boot_s=0.05), 0, house.services)
    with pytest.raises(BootFailure, match=r"not ready within 0\.05 s \(boot_s\)"):
        await pool.start()
    await until(lambda: house.kills)
    assert house.kills == [house.workers[0].pid]
    await pool.close(0, "test")


async def test_a_worker_that_dies_while_it_boots_is_tried_again(house: House) -> None:
    lives = iter([False, False, True])
    house.on_boot = lambda worker: worker.ready() if next(lives) else worker.die(-9)
    pool = await started(house)
    assert len(house.forks) == 3
    assert pool.state == "ready"
    await pool.close(0, "test")


async def test_a_worker_that_always_dies_while_it_boots_is_a_failure(house: House) -> None:
    house.on_boot = lambda worker: worker.die(-11)
    pool = Pool(generation(), 0, house.services)
    with pytest.raises(BootFailure, match=r"ended while starting \(signal 11\)"):
        await pool.start()
    assert len(house.forks) == 3
    await pool.close(0, "test")


async def test_a_system_without_processes_to_spare_is_a_failure(house: House) -> None:
    house.refuses = True
    pool = Pool(generation(), 0, house.services)
    with pytest.raises(BootFailure):
        await pool.start()
    assert pool.state == "failed"
    await pool.close(0, "test")


async def test_an_environment_that_is_too_large_to_be_told_is_a_failure(house: House) -> None:
    large = msgspec.structs.replace(generation(), environ={"LARGE": "x" * (2 << 20)})
    pool = Pool(large, 0, house.services)
    with pytest.raises(BootFailure, match="over"):
        await pool.start()
    assert pool.state == "failed"
    await pool.close(0, "test")


async def test_a_system_without_descriptors_to_spare_is_a_failure(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "socket_pair", _none_left)
    pool = Pool(generation(), 0, house.services)
    with pytest.raises(BootFailure, match="Too many open files"):
        await pool.start()
    assert pool.state == "failed"
    await pool.close(0, "test")


@pytest.mark.parametrize("fits", [0, 1], ids=["the archive", "the ledger"])
async def test_a_system_without_descriptors_for_files_is_a_failure_that_passes(
    house: House, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    made = 0

    def none_left(*data: bytes, **options: Any) -> int:
        nonlocal made
        made += 1
        if made > fits:
            raise OSError(24, "Too many open files")
        return shared_file(*data, **options)

    pool = Pool(generation(), 0, house.services)
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "shared_file", none_left)
        patch.setattr(ledger, "shared_file", none_left)
        with pytest.raises(BootFailure, match="Too many open files"):
            await pool.start()
    assert pool.state == "failed"
    await asyncio.sleep(0.01)
    assert (await pool.acquire()).pid == house.workers[0].pid
    await pool.close(0, "test")


async def test_a_ledger_that_finds_no_memory_is_a_failure_that_passes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(fd: int) -> Any:
        raise OSError(12, "Cannot allocate memory")

    pool = await started(house, max_requests=1)
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "Ledger", none_left)
        before = descriptors()
        worker = await pool.acquire()
        pool.release(worker, None)
        await until(lambda: "Cannot allocate memory" in pool.last_error)
        assert (descriptors(), pool.workers) == (before, [worker])
    await until(lambda: pool._crashes.waiting <= 0)
    pool.look()
    await until(lambda: pool.workers not in ([], [worker]))
    await pool.close(0, "test")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc here")
async def test_a_boot_for_which_there_are_not_enough_descriptors_keeps_none(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await started(house, max_requests=1)
    with monkeypatch.context() as patch:
        patch.setattr(house.engine, "connect", lambda: os.open("/dev/null", os.O_RDONLY))
        patch.setattr(os, "dup", _none_left)
        before = descriptors()
        worker = await pool.acquire()
        pool.release(worker, None)
        await until(lambda: "Too many open files" in pool.last_error)
        await until(lambda: len(house.living) == 1)
        await turns()
        assert (descriptors(), pool.workers) == (before, [worker])
    await pool.close(0, "test")


def _none_left(*_: Any) -> Any:
    raise OSError(24, "Too many open files")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc here")
async def test_nothing_of_a_dead_worker_is_kept_open(house: House) -> None:
    pool = await started(house)

    async def die() -> None:
        (dying,) = house.living
        ref, seen = weakref.ref(pool.workers[0]), pool.workers[0].pid
        played = house.workers.pop()
        dying.die()
        played.ledger.close()
        await until(lambda: pool.workers and pool.workers[0].pid != seen)
        await until(lambda: ref() is None)  # nor in memory, until somebody collects the cycles

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for count in range(4):
            await die()
            if count == 0:
                before = descriptors()
        await until(lambda: descriptors() <= before)
        gc.collect()
        theirs = [one.door for one in gc.garbage if isinstance(one, PlayedWorker)]
        ours = [one for one in gc.garbage if isinstance(one, Door | Worker | ResponseStream)]
        assert [one for one in ours if one not in theirs] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    await pool.close(0, "test")


async def test_a_connection_remembers_what_was_begun_after_its_worker_s_end(house: House) -> None:
    pool = await started(house)
    begun, other = [await pool.workers[0].open() for _ in range(2)]
    await until(lambda: len(house.workers[0].links) == 3)
    house.workers[0].links[1].mark()
    worker = pool.workers[0]
    house.workers[0].die()
    await until(lambda: not worker.lives)
    assert (begun.accepted, other.accepted) == (True, False)
    late = await worker.open()
    assert not late.accepted
    late.begin(frames.Head(request_id="1", method="GET", path="/", raw_path=b"/", headers=[]), lambda: None)
    assert not late.accepted
    await pool.close(0, "test")


async def test_one_boot_that_fails_sends_nobody_away_while_another_is_on_its_way(house: House) -> None:
    booting: list[PlayedWorker] = []
    house.on_boot = booting.append
    pool = Pool(generation(min_workers=0, max_workers=2, oneshot=True), 3, house.services)
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
    await until(lambda: len(booting) == 2)
    booting[0].fail("no database")
    await until(lambda: pool.last_error == "no database")
    assert pool.state == "booting"
    booting[1].ready()
    done, _ = await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
    assert done.pop().result().pid == booting[1].pid
    for task in waiting:
        task.cancel()
    await pool.close(0, "test")


async def test_a_slot_of_a_connection_rests_before_another_has_it(house: House) -> None:
    """The worker may not know yet that the first is gone, and begin with what it carried."""
    pool = await started(house)
    (worker,) = pool.workers
    slots = []
    for _ in range(worker_module._RESTING + 3):
        stream = await worker.open()
        slots.append(stream.slot)
        stream.abort()
        await until(lambda stream=stream: stream.closed)  # type: ignore[misc]
    assert slots[:-2] == list(range(1, len(slots) - 1))
    assert slots[-2:] == slots[:2]
    await pool.close(0, "test")


async def test_the_log_says_why_the_gateway_ends_a_worker(house: House) -> None:
    pool = await started(house)
    pool.discard(pool.workers[0])
    assert "the worker is ended: it closed the connection of a request" in house.log
    await pool.close(0, "test")


async def test_a_worker_that_dies_the_moment_it_is_ready_is_replaced(house: House) -> None:
    def ready_and_dead(worker: PlayedWorker) -> None:
        worker.ready()
        if len(house.workers) == 1:
            worker.die(-9)

    house.on_boot = ready_and_dead
    pool = await started(house)
    worker = await asyncio.wait_for(pool.acquire(), 5)
    assert worker.pid == house.workers[1].pid
    assert pool.workers == [worker]
    await pool.close(0, "test")


# --- keeping workers alive ----------------------------------------------------------------


async def test_a_dead_worker_is_replaced_and_told_of(house: House) -> None:
    pool = await started(house, min_workers=2)
    house.workers[0].die(-9)
    await until(lambda: len(house.living) == 2 and len(pool.workers) == 2)
    assert pool.series.restarts == 1
    assert f"worker {house.workers[0].pid} ended (signal 9)" in house.log
    assert {worker.pid for worker in pool.workers} == {worker.pid for worker in house.living}
    await pool.close(0, "test")


async def test_all_workers_may_die_at_once(house: House) -> None:
    pool = await started(house, min_workers=3)
    for worker in house.living:
        worker.die(-9)
    await until(lambda: len(house.living) == 3 and len(pool.workers) == 3)
    await turns()
    assert len(house.living) == 3
    assert pool.state == "ready"
    await pool.close(0, "test")


async def test_requests_wait_for_the_replacement(house: House) -> None:
    pool = await started(house)
    house.on_boot = lambda worker: None
    house.workers[0].die(-9)
    await until(lambda: not pool.workers)
    assert pool.state == "booting"
    waiting = asyncio.create_task(pool.acquire())
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    house.workers[1].ready()
    assert (await waiting).pid == house.workers[1].pid
    await pool.close(0, "test")


async def test_a_worker_that_cannot_be_told_anything_more_gets_no_request_and_is_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function may close any descriptor it finds."""
    monkeypatch.setattr(worker_module, "_LAST_BREATH_S", 0.01)
    pool = await started(house)
    worker = pool.workers[0]
    house.workers[0].door.close(asyncio.get_running_loop())
    await until(lambda: worker.dead)
    assert pool.take() is None
    await until(lambda: house.kills == [worker.pid])
    assert (await pool.acquire()).pid == house.workers[1].pid
    await pool.close(0, "test")


async def test_a_worker_that_broke_a_connection_is_ended(house: House) -> None:
    pool = await started(house)
    worker = await pool.acquire()
    pool.discard(worker)
    pool.release(worker, None)
    await until(lambda: len(house.workers) == 2)
    assert house.kills == [house.workers[0].pid]
    await until(lambda: pool.workers)
    assert pool.workers[0].pid == house.workers[1].pid
    await pool.close(0, "test")


async def test_a_leaving_worker_may_refuse_a_request_and_still_finish_others(house: House) -> None:
    pool = await started(house)
    worker = await pool.acquire()
    house.on_drain = lambda worker: None
    closing = asyncio.create_task(pool.close(5, "reload"))
    await until(lambda: house.workers[0].drains)
    pool.discard(worker)
    await turns()
    assert house.kills == []
    house.workers[0].die(0)
    await closing


async def test_a_replacement_that_does_not_start_is_tried_again_while_others_serve(house: House) -> None:
    pool = await started(house, min_workers=2)
    fates = iter(["fail", "fail", "ready"])
    house.on_boot = lambda worker: worker.ready() if next(fates) == "ready" else worker.fail("no database")
    house.workers[0].die(-9)
    await until(lambda: len(house.forks) == 5 and len(pool.workers) == 2)
    assert pool.state == "ready"
    await pool.close(0, "test")


async def test_a_worker_that_dies_young_again_and_again_is_replaced_ever_more_slowly(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 0.01)
    waits: list[float] = []
    states: list[str] = []
    pool = await started(house)
    for _ in range(4):
        house.living[0].die(1)
        await until(lambda: not pool.workers)
        waits.append(pool._crashes.waiting)
        states.append(pool.state)
        await until(lambda: pool.workers)
    assert pool.trouble == f"worker {house.workers[3].pid} ended (status 1)"
    assert waits == sorted(waits)
    assert waits[0] > 0
    assert waits[3] > 4 * waits[0]
    assert states == ["booting", "booting", "failing", "failing"]
    await pool.close(0, "test")


async def test_a_function_without_workers_to_keep_is_booted_by_the_next_request(house: House) -> None:
    """`min_workers = 0`: the last one's death starts nothing, a request does."""
    pool = await started(house, min_workers=0)
    house.workers[0].die(0)
    await until(lambda: not pool.workers)
    await turns()
    assert len(house.forks) == 1
    worker = await asyncio.wait_for(pool.acquire(), 5)
    assert worker.pid == house.workers[1].pid
    await pool.close(0, "test")


async def test_a_worker_that_has_lost_the_engine_is_led_to_it_again_but_not_for_ever(house: House) -> None:
    ours, theirs = socket.socketpair()
    house.engine.arrive(theirs.detach())
    pool = await started(house)
    (worker,) = house.workers
    booted = house.connects
    for count in range(1, 65):
        worker.door.send(frames.EngineMissing())
        await until(partial(lambda count: len(worker.engines) == count, count))
    assert house.connects == booted + 64
    worker.door.send(frames.EngineMissing())
    await until(lambda: worker.pid in house.kills)
    assert "it loses its connection to the engine again and again" in "".join(house.told)
    ours.close()
    await pool.close(0, "test")


async def test_a_worker_that_misses_an_engine_which_is_not_there_waits(house: House) -> None:
    pool = await started(house)
    (worker,) = house.workers
    for _ in range(70):
        worker.door.send(frames.EngineMissing())
    await turns(100)
    assert (worker.engines, house.kills) == ([], [])
    await pool.close(0, "test")


async def test_workers_are_led_to_a_new_engine(house: House) -> None:
    pool = await started(house, min_workers=2)
    pool.meet_engine()
    await turns()
    assert [worker.engines for worker in house.workers] == [[], []]  # there is none
    ours, theirs = socket.socketpair()
    house.engine.arrive(theirs.detach())
    await turns()
    pool.meet_engine()
    await until(lambda: all(worker.engines for worker in house.workers))
    assert house.connects == 2
    ours.close()
    await pool.close(0, "test")


async def test_what_a_worker_prints_is_logged_with_its_function(house: House) -> None:
    pool = await started(house)
    house.workers[0].print(b"plain\n" + b'\x1e{"l":"warning","m":"marked","r":"abc"}\n')
    await until(lambda: len(house.told) == 2)
    assert house.told[0].endswith(" INFO    hello/1001 plain")
    assert house.told[1].endswith(" WARNING hello/1001 [abc] marked")
    await pool.close(0, "test")


async def test_closing_lets_workers_finish(house: House) -> None:
    pool = await started(house, min_workers=2)
    house.on_drain = lambda worker: None
    closing = asyncio.create_task(pool.close(5.0, "reload"))
    await until(lambda: all(worker.drains for worker in house.workers))
    assert [worker.drains for worker in house.workers] == [[frames.Drain(5.0, "reload")]] * 2
    assert not closing.done()
    for worker in house.workers:
        worker.die(0)
    await closing
    assert house.kills == []
    assert pool.series.restarts == 0


async def test_closing_ends_those_that_do_not_leave(house: House) -> None:
    pool = await started(house)
    house.on_drain = lambda worker: None
    await pool.close(-0.95, "reload")
    await until(lambda: house.kills)
    assert house.kills == [house.workers[0].pid]


async def test_closing_refuses_those_who_wait_and_those_who_come(house: House) -> None:
    pool = await started(house, concurrency=1)
    await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await turns()
    await pool.close(1, "reload")
    with pytest.raises(ShuttingDown):
        await waiting
    with pytest.raises(ShuttingDown):
        await pool.acquire()


async def test_a_worker_that_was_told_to_end_gets_no_request(house: House) -> None:
    house.on_drain = lambda worker: None
    pool = await started(house)
    worker = await pool.acquire()
    closing = asyncio.create_task(pool.close(5, "removed"))
    await turns()
    assert pool.take() is None
    pool.release(worker, None)
    house.workers[0].die(0)
    await closing


async def test_one_that_is_stopped_before_its_first_request_is_replaced_ever_more_slowly(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await started(house)
    waits = []
    for _ in range(4):
        pool.workers[0].condemn(WorkerLimit("too much memory", limit="memory_mb"))
        waits.append(pool._crashes.waiting)
        await until(lambda: pool.workers)
    assert waits == sorted(waits)
    assert waits[3] > 4 * waits[0] > 0
    assert pool.state == "failing"
    await pool.close(0, "test")


async def test_nothing_is_booted_after_closing(house: House) -> None:
    pool = await started(house, min_workers=2)
    house.workers[0].die(-9)  # its replacement waits a moment, as it died young
    await until(lambda: len(pool.workers) == 1)
    await pool.close(1, "reload")
    await asyncio.sleep(0.01)
    assert not house.living
    assert len(house.forks) == 2


async def test_a_worker_that_is_ready_after_closing_leaves_at_once(house: House) -> None:
    pool = await started(house, min_workers=1)
    house.on_boot = lambda worker: None
    house.workers[0].die(-9)
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    await pool.close(0.1, "reload")
    if house.workers[1].alive:
        house.workers[1].ready()
    await until(lambda: not house.living)


async def test_a_worker_that_is_ready_only_after_closing_has_as_long_as_the_others(house: House) -> None:
    house.on_boot = house.on_drain = lambda worker: None
    pool = Pool(generation(), 3, house.services)
    starting = asyncio.create_task(pool.start())
    await until(lambda: house.workers and house.workers[0].boot)
    await pool.close(5.0, "reload")
    (late,) = house.workers
    late.ready()
    await until(lambda: late.drains)
    assert late.drains == [frames.Drain(5.0, "reload")]
    await starting
    assert house.workers == [late]  # and no other is started beside it
    assert not pool.workers
    assert late.alive


async def test_a_worker_that_is_ready_only_after_closing_does_not_stay(house: House) -> None:
    house.on_boot = house.on_drain = lambda worker: None
    pool = Pool(generation(), 3, house.services)
    starting = asyncio.create_task(pool.start())
    await until(lambda: house.workers and house.workers[0].boot)
    await pool.close(-0.95, "reload")
    house.workers[0].ready()
    await starting
    await until(lambda: house.kills)
    assert house.kills == [house.workers[0].pid]
