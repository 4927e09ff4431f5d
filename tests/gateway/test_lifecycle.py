"""Workers that come when they are needed, and leave without taking anything along."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.gateway import crashes as crashes_module
from runtime.gateway import departures as departures_module
from runtime.gateway.pool import Pool
from tests.gateway.house import House, PlayedWorker, generation, turns, until

pytestmark = pytest.mark.anyio
MB = 1 << 20


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 0.001)


async def started(house: House, name: str = "hello", **options: Any) -> Pool:
    pool = Pool(generation(function=name, **options), 3, house.services)
    await pool.start()
    await until(lambda: len(pool.workers) >= pool.generation.function.limits.min_workers)
    return pool


def pids(pool: Pool) -> list[int]:
    return [worker.pid for worker in pool.workers]


def told(worker: PlayedWorker) -> list[tuple[str, str]]:
    return [(type(frame).__name__, frame.reason) for frame in worker.farewells]


# --- scale-up -----------------------------------------------------------------------------


async def test_a_worker_is_added_when_somebody_has_waited_a_while(house: House) -> None:
    pool = await started(house, concurrency=1, max_workers=4)
    first = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await turns()
    assert len(house.forks) == 1  # most waits end by themselves
    second = await waiting
    assert second is not first
    assert pids(pool) == [first.pid, second.pid]
    assert len(house.forks) == 2


async def test_nothing_is_added_while_slots_are_free(house: House) -> None:
    pool = await started(house, concurrency=50, max_workers=4)
    workers = [await pool.acquire() for _ in range(50)]
    await asyncio.sleep(0.05)
    assert len(house.forks) == 1
    for worker in workers:
        pool.release(worker, None)


async def test_there_are_never_more_than_max_workers(house: House) -> None:
    pool = await started(house, concurrency=1, max_workers=3)
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(10)]
    await until(lambda: len(pool.workers) == 3)
    await asyncio.sleep(0.08)
    assert len(house.forks) == 3
    assert pool.queued == 7
    for task in waiting:
        task.cancel()


async def test_their_number_doubles_at_most_while_requests_wait(house: House) -> None:
    booting: list[PlayedWorker] = []
    pool = await started(house, concurrency=1, max_workers=8)
    house.on_boot = booting.append
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(20)]
    for expected in (1, 2, 4):
        await until(lambda expected=expected: len(booting) == expected)  # type: ignore[misc]
        await asyncio.sleep(0.05)  # it is not that more would come later
        assert len(booting) == expected
        for worker in booting:
            worker.ready()
        booting.clear()
    await until(lambda: len(pool.workers) == 8)
    for task in waiting:
        task.cancel()


async def test_an_addition_that_does_not_start_leaves_the_others_serving(house: House) -> None:
    pool = await started(house, concurrency=1, max_workers=2)
    house.on_boot = lambda worker: worker.fail("no database")
    worker = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await until(lambda: "no database" in pool.last_error)
    assert pool.workers == [worker]
    pool.release(worker, None)
    assert await waiting is worker


async def test_workers_that_are_idle_for_long_leave_down_to_min_workers(house: House) -> None:
    pool = await started(house, concurrency=1, max_workers=4, worker_idle_s=30)
    workers = await asyncio.gather(*(pool.acquire() for _ in range(4)))
    pool.look()
    for worker in workers:
        pool.release(worker, None)
    pool.look()
    assert len(pool.workers) == 4
    for worker in workers[1:]:
        worker.rested_at -= 31
    pool.look()
    assert pool.workers == [workers[0]]
    await until(lambda: len(house.living) == 1)
    assert all(told(worker) == [("Unload", "early_drop"), ("Drain", "early_drop")] for worker in dead(house))
    assert (pool.series.retired, pool.series.restarts) == (3, 0)
    assert "ended" not in house.log


def dead(house: House) -> list[PlayedWorker]:
    return [worker for worker in house.workers if not worker.alive]


async def test_the_last_one_leaves_too_where_none_is_to_be_kept(house: House) -> None:
    pool = await started(house, min_workers=0, worker_idle_s=30)
    pool.workers[0].rested_at -= 31
    pool.look()
    await until(lambda: not house.living)
    assert pool.state == "ready"
    assert (await pool.acquire()).pid == house.workers[1].pid


# --- retirement, with the replacement ready first -------------------------------------------


async def test_after_max_requests_another_takes_over_when_it_is_ready(house: House) -> None:
    pool = await started(house, max_requests=3)
    house.on_boot = lambda worker: None
    for _ in range(3):
        old = await pool.acquire()
        pool.release(old, None)
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    assert pool.take() is old  # it goes on until then
    house.workers[1].ready()
    await until(lambda: pids(pool) == [house.workers[1].pid])
    assert pool.leaving == [old]
    assert house.workers[0].drains == []  # it is told to end when it has nothing in flight
    pool.release(old, None)
    await until(lambda: not house.workers[0].alive)
    assert told(house.workers[0]) == [("Unload", "early_drop"), ("Drain", "early_drop")]
    assert (pool.series.retired, pool.series.restarts, pool.leaving) == (1, 0, [])


async def test_a_replacement_that_does_not_start_leaves_the_old_one_serving(house: House) -> None:
    pool = await started(house, max_requests=1)
    fates = iter(["fail", "ready"])
    house.on_boot = lambda worker: worker.ready() if next(fates) == "ready" else worker.fail("no database")
    worker = await pool.acquire()
    pool.release(worker, None)
    await until(lambda: pool.last_error == "no database")
    assert pool.workers == [worker]
    await until(lambda: pool._crashes.waiting <= 0)
    pool.look()
    await until(lambda: pids(pool) == [house.workers[-1].pid] and not worker.lives)


async def test_those_that_were_to_be_replaced_still_are_after_a_failure(house: House) -> None:
    """Nobody else would find again what the memory of all functions together asked for."""
    pool = await started(house)
    house.on_boot = lambda worker: worker.fail("no database")
    pool.relieve()
    await until(lambda: pool.last_error == "no database")
    house.on_boot = lambda worker: worker.ready()
    await until(lambda: pool._crashes.waiting <= 0)
    pool.look()
    await until(lambda: pids(pool) == [house.workers[-1].pid])
    await until(lambda: told(house.workers[0]) == [("Unload", "memory"), ("Drain", "memory")])


async def test_workers_that_are_too_old_are_replaced_one_after_the_other(house: House) -> None:
    pool = await started(house, min_workers=3, max_age_s=60)
    before = pids(pool)
    booting: list[PlayedWorker] = []
    house.on_boot = booting.append
    pool.look()
    assert len(house.forks) == 3
    for worker in pool.workers:
        worker.ready_at -= 61
    pool.look()
    pool.look()
    for count in (1, 2, 3):
        await until(lambda count=count: len(booting) == count)  # type: ignore[misc]
        await turns()
        assert len(booting) == count
        assert len(pool.workers) == 3
        booting[-1].ready()
    await until(lambda: not set(before) & set(pids(pool)))
    await until(lambda: len(house.living) == 3)


async def test_a_worker_that_has_grown_is_replaced_before_it_reaches_its_limit(house: House) -> None:
    pool = await started(house, memory_mb=100)
    for memory in (20, 59):
        pool.workers[0].memory = memory * MB
        pool.look()
        await turns()
        assert len(house.forks) == 1
    pool.workers[0].memory = 60 * MB  # half of what it could still take at first
    pool.look()
    await until(lambda: len(house.forks) == 2 and pids(pool) == [house.workers[-1].pid])


async def test_a_function_that_needs_its_memory_is_not_replaced_all_the_time(house: House) -> None:
    pool = await started(house, memory_mb=100)
    for _ in range(5):
        pool.workers[0].memory = 5 * MB
        pool.look()
        pool.workers[0].memory = 90 * MB
        pool.look()
        await until(lambda: len(pool.workers) == 1 and not pool._renewals)
        await turns()
    assert len(house.forks) == 2
    pool.workers[0].first_memory = 90 * MB
    pool._wear._grown_at = float("-inf")
    pool.look()
    await turns()
    assert len(house.forks) == 2


async def test_a_replacement_for_one_that_died_meanwhile_is_not_one_too_many(house: House) -> None:
    """`max_workers = 1` says that there are never two that get requests."""
    pool = await started(house, max_workers=1, max_requests=1)
    house.on_boot = lambda worker: None
    worker = await pool.acquire()
    pool.release(worker, None)
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    house.workers[0].die(-9)
    await until(lambda: len(house.workers) == 3 and house.workers[2].boot)
    house.workers[1].ready()
    house.workers[2].ready()
    await until(lambda: len(house.living) == 1)
    assert len(pool.workers) == 1


async def test_a_websocket_on_a_worker_that_retires_lives_until_its_time_is_over(house: House) -> None:
    pool = await started(house, min_workers=2, max_age_s=60, timeout_s=0.2)
    parted: list[str] = []
    old = await pool.acquire()
    other = await pool.acquire()
    pool.enter(lambda reason: parted.append(f"old {reason}"), old)
    pool.enter(lambda reason: parted.append(f"other {reason}"), other)
    old.ready_at -= 61
    pool.look()
    await until(lambda: pool.leaving == [old])
    assert parted == []
    assert house.workers[0].drains == []
    await until(lambda: parted)
    assert parted == ["old wall_clock"]
    await until(lambda: house.workers[0].drains)


async def test_a_websocket_that_ends_lets_its_worker_go(house: House) -> None:
    pool = await started(house, max_age_s=60)
    old = await pool.acquire()
    part: Any = lambda reason: None  # noqa: E731
    pool.enter(part, old)
    old.ready_at -= 61
    pool.look()
    await until(lambda: pool.leaving == [old])
    pool.leave(part)
    pool.release(old, None)
    await until(lambda: not house.workers[0].alive)


async def test_what_was_given_to_wait_until_may_take_what_is_left_of_the_time(house: House) -> None:
    house.on_drain = lambda worker: None
    pool = await started(house, max_age_s=60, timeout_s=100)
    pool.workers[0].ready_at -= 61
    pool.look()
    await until(lambda: house.workers[0].drains)
    (drain,) = house.workers[0].drains
    assert 99 < drain.seconds <= 100
    assert house.workers[0].alive


async def test_one_that_does_not_end_is_killed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures_module, "_GRACE_S", 0.01)
    house.on_drain = lambda worker: None
    pool = await started(house, max_age_s=60, timeout_s=0.02)
    pool.workers[0].ready_at -= 61
    pool.look()
    await until(lambda: house.kills == [house.workers[0].pid])
    assert "was killed" in house.log


async def test_those_that_finish_what_they_have_do_not_become_ever_more(house: House) -> None:
    house.on_drain = lambda worker: None  # what wait_until was given takes long
    pool = await started(house, max_requests=1, max_workers=2)
    for _ in range(6):
        pool.release(await pool.acquire(), None)
        await asyncio.sleep(0.005)
    assert len(pool.leaving) == 2
    assert len(house.living) <= 4


async def test_one_that_leaves_and_crashes_is_told_of_and_not_replaced(house: House) -> None:
    pool = await started(house, max_age_s=60)
    house.on_drain = lambda worker: worker.die(-11)
    pool.workers[0].ready_at -= 61
    pool.look()
    await until(lambda: "signal 11" in house.log)
    await turns()
    assert len(house.forks) == 2
    assert pool.series.restarts == 0


async def test_closing_ends_those_that_are_leaving_too(house: House) -> None:
    house.on_drain = lambda worker: None
    pool = await started(house, max_age_s=60)
    pool.workers[0].ready_at -= 61
    pool.look()
    await until(lambda: house.workers[0].drains)
    await pool.close(-1, "reload")
    await until(lambda: not house.living)
    assert sorted(house.kills) == [worker.pid for worker in house.workers]


async def test_nothing_is_dropped_while_workers_are_replaced_under_load(house: House) -> None:
    pool = await started(house, concurrency=3, min_workers=2, max_requests=5)
    served: list[int] = []

    async def request(number: int) -> None:
        worker = await pool.acquire()
        assert worker in pool.workers
        served.append(number)
        await asyncio.sleep(0.001 * (number % 3))
        assert not worker.dead
        assert next(played for played in house.workers if played.pid == worker.pid).drains == []
        pool.release(worker, None)

    await asyncio.gather(*(request(number) for number in range(300)))
    assert served == list(range(300))
    assert pool.series.retired > 10
    assert (house.kills, pool.series.restarts, pool.in_flight) == ([], 0, 0)
    await until(lambda: len(house.living) == 2)


# --- one worker for each request -------------------------------------------------------------


async def test_with_oneshot_each_worker_serves_one_request_and_ends(house: House) -> None:
    pool = await started(house, oneshot=True, max_workers=None)
    served = []
    for _ in range(5):
        worker = await pool.acquire()
        served.append(worker.pid)
        assert worker.in_flight == 1
        pool.release(worker, None)
        assert worker not in pool.workers
    assert len(set(served)) == 5
    await until(lambda: [played.pid for played in dead(house)] == served)
    assert pool.series.restarts == 0


async def test_with_oneshot_a_spare_is_made_when_one_is_taken(house: House) -> None:
    pool = await started(house, oneshot=True, max_workers=None)
    first = await pool.acquire()
    await until(lambda: len(pool.workers) == 2)
    assert (await pool.acquire()) is not first
    await until(lambda: len(pool.workers) == 3)
    await turns()
    assert len(house.forks) == 3


async def test_with_oneshot_requests_wait_when_there_are_max_workers(house: House) -> None:
    house.on_drain = lambda worker: None  # what wait_until was given goes on
    pool = await started(house, oneshot=True, max_workers=2)
    first, second = await pool.acquire(), await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    pool.release(first, None)
    await asyncio.sleep(0.05)
    assert len(house.forks) == 2
    assert not waiting.done()
    house.workers[0].die(0)
    assert await waiting not in (first, second)


async def test_with_oneshot_a_worker_whose_request_was_never_sent_is_not_used_up(house: House) -> None:
    pool = await started(house, oneshot=True, max_workers=1)
    (worker,) = pool.workers
    waiting = asyncio.create_task(pool.acquire())
    await turns(1)
    waiting.cancel()
    await turns()
    assert pool.workers == [worker]


# --- crash loops -----------------------------------------------------------------------------


async def test_a_function_that_crashes_at_every_request_is_failing_until_it_does_not(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes_module, "_BREATH_S", 0.02)
    pool = await started(house)
    for number in range(4):
        assert pool.state == ("failing" if number == 3 else "ready")
        worker = await pool.acquire()
        house.living[0].die(-11)
        await until(lambda worker=worker: not worker.lives)  # type: ignore[misc]
        pool.release(worker, None)
        await until(lambda: pool.workers)
    assert pool.series.restarts == 4
    monkeypatch.setattr(crashes_module, "YOUNG_S", 0.01)
    await asyncio.sleep(0.02)
    pool.look()
    assert pool.state == "ready"


# --- all functions together ------------------------------------------------------------------


async def test_at_the_total_an_idle_worker_of_another_function_leaves(house: House) -> None:
    house.services.budget.configure(3, 0)
    rich = await started(house, "rich", concurrency=1, max_workers=2)
    poor = await started(house, "poor", concurrency=1, max_workers=2)
    one, two = await asyncio.gather(rich.acquire(), rich.acquire())
    rich.release(one, None)
    rich.release(two, None)
    await poor.acquire()
    await poor.acquire()
    assert (len(rich.workers), len(poor.workers)) == (1, 2)
    await until(lambda: len(house.living) == 3)
    assert [told(worker)[0] for worker in dead(house)] == [("Unload", "early_drop")]


async def test_at_the_total_requests_wait_while_no_other_function_can_spare_one(house: House) -> None:
    house.services.budget.configure(2, 0)
    first = await started(house, "first", concurrency=1, max_workers=2)
    other = await started(house, "other", concurrency=1, max_workers=2)
    worker = await first.acquire()
    waiting = asyncio.create_task(first.acquire())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert len(other.workers) == 1
    first.release(worker, None)
    assert await waiting is worker


async def test_functions_beyond_the_total_start_when_they_are_called(house: House) -> None:
    house.services.budget.configure(1, 0)
    first = await started(house, "first")
    late = Pool(generation(function="late"), 1, house.services)
    await late.start(needed=False)
    late.look()
    await turns()
    assert (late.state, len(house.forks)) == ("ready", 1)
    assert (await late.acquire()).pid == house.workers[1].pid
    assert first.workers == []
    assert first.state == "ready"


async def test_any_number_of_functions_may_wait_for_a_place_among_all(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them used to look at all the others, fifty times a second."""
    looks = 0

    def holding(pool: Pool, before: Any = Pool.holding) -> Any:
        nonlocal looks
        looks += 1
        return before(pool)

    house.services.budget.configure(2, 0)
    busy = await started(house, "busy", concurrency=1, min_workers=2)
    workers = [await busy.acquire() for _ in range(2)]
    pools = [Pool(generation(function=f"f{number}"), 1, house.services) for number in range(300)]
    for pool in pools:
        await pool.start(needed=False)
    monkeypatch.setattr(Pool, "holding", holding)
    served: list[int] = []

    async def request(number: int) -> None:
        worker = await pools[number].acquire()
        served.append(number)
        pools[number].release(worker, None)

    waiting = [asyncio.create_task(request(number)) for number in range(300)]
    await asyncio.sleep(0.1)
    assert looks < 1000
    assert served == []
    for worker in workers:
        busy.release(worker, None)
    await asyncio.gather(*waiting)
    assert served == list(range(300))
    assert looks < 3000


async def test_over_the_total_of_memory_the_largest_worker_is_replaced(house: House) -> None:
    house.services.budget.configure(0, 100)
    pools = [await started(house, name) for name in ("small", "large")]
    pools[0].workers[0].memory, pools[1].workers[0].memory = 30 * MB, 80 * MB
    house.services.budget.look()
    await until(lambda: len(house.forks) == 3 and pids(pools[1]) == [house.workers[2].pid])
    assert pids(pools[0]) == [house.workers[0].pid]
