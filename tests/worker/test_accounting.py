"""What a request has taken of the processor."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from threading import Event, Thread
from typing import Any

import anyio.lowlevel
import anyio.to_thread
import pytest
import uvloop

from runtime.context import Call, current
from runtime.ledger import Ledger, Pulse, new_file
from runtime.worker import accounting
from runtime.worker.accounting import NO_LIMIT, Account, Meter

MS = 1_000_000


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture
def meter(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> Meter:
    for owner, name in ((anyio.to_thread, "run_sync"), (Thread, "start"), (ThreadPoolExecutor, "submit")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # and back at the end
    fd = new_file(4)
    meter = Meter(Ledger(fd))
    os.close(fd)
    meter.install(runner.get_loop())
    return meter


def burn(ms: float) -> None:
    end = time.thread_time_ns() + int(ms * MS)
    while time.thread_time_ns() < end:
        pass


class Held:
    """What a handler has in its hands."""


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


def begin(work: Any, slot: int = 0, limit_ms: int = 0) -> tuple[asyncio.Task[Any], Account]:
    """A task that works for a request of its own."""
    account = Account(f"request-{slot}", slot, limit_ms * MS or NO_LIMIT)
    call = Call(account.name, "f", 0.0, lambda call, work: asyncio.ensure_future(work))
    call.account = account
    context = Context()
    context.run(current.set, call)
    task = asyncio.get_running_loop().create_task(work, context=context)
    account.stop = partial(_cancel, task)
    return task, account


def test_two_requests_that_take_turns_are_each_charged_what_they_took(
    runner: asyncio.Runner, meter: Meter
) -> None:
    async def work(ms: float) -> None:
        for _ in range(20):
            burn(ms)
            await asyncio.sleep(0)

    async def main() -> tuple[int, int]:
        (one, first), (two, second) = begin(work(0.5), 0), begin(work(2.0), 1)
        await asyncio.gather(one, two)
        return first.cost, second.cost

    first, second = runner.run(main())
    assert 10 * MS <= first < 15 * MS
    assert 40 * MS <= second < 50 * MS


def test_what_it_waits_for_costs_a_request_nothing(runner: asyncio.Runner, meter: Meter) -> None:
    async def work() -> None:
        await asyncio.sleep(0.05)
        burn(1)

    async def main() -> int:
        task, account = begin(work())
        burn(20)  # of another's
        await task
        return account.cost

    assert MS <= runner.run(main()) < 3 * MS


def test_tasks_and_threads_that_a_request_starts_are_charged_to_it(
    runner: asyncio.Runner, meter: Meter
) -> None:
    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(asyncio.to_thread(burn, 20))
        await anyio.to_thread.run_sync(burn, 20)

    async def child() -> None:
        burn(20)

    async def main() -> int:
        task, account = begin(work())
        await task
        meter.settle_all()
        assert not meter.calls
        return account.cost

    assert 60 * MS <= runner.run(main()) < 75 * MS


def test_a_thread_of_its_own_and_a_pool_s_are_charged_once(runner: asyncio.Runner, meter: Meter) -> None:
    async def work() -> None:
        thread = Thread(target=burn, args=(20,))
        thread.start()
        with ThreadPoolExecutor(1) as pool:
            for taken in [pool.submit(burn, 20) for _ in range(2)]:
                taken.result()
        thread.join()

    async def main() -> int:
        task, account = begin(work())
        await task
        meter.settle_all()
        assert not meter.calls
        return account.cost

    assert 60 * MS <= runner.run(main()) < 75 * MS


def test_a_thread_that_goes_on_over_the_limit_resists_and_one_that_waits_does_not(
    runner: asyncio.Runner, meter: Meter
) -> None:
    resisted: list[Account] = []
    meter.on_resisted = resisted.append
    over = Event()

    def spin() -> None:
        while not over.is_set():
            burn(1)

    async def starting(target: Callable[[], object]) -> None:
        Thread(target=target).start()
        await asyncio.sleep(0.002)
        burn(20)

    async def main() -> tuple[Account, Account]:
        (one, spinning), (two, waiting) = begin(starting(spin), 0, 10), begin(starting(over.wait), 1, 10)
        await asyncio.wait([one, two])
        while not resisted:
            meter.settle_all()
            await asyncio.sleep(0.01)
        meter.settle_all()
        over.set()
        return spinning, waiting

    spinning, waiting = runner.run(main())
    assert spinning.exceeded
    assert waiting.exceeded
    assert resisted == [spinning]


def test_a_thread_is_charged_while_it_works(runner: asyncio.Runner, meter: Meter) -> None:
    seen = []

    async def main() -> None:
        task, account = begin(asyncio.to_thread(burn, 300))
        while account.cost < 20 * MS:
            await asyncio.sleep(0.005)
            meter.settle_all()
            seen.append(meter.ledger.thread(0)[0])
        assert not task.done()
        assert "in burn" in meter.where(account)
        await task

    runner.run(main())
    assert seen[-1] > 0
    assert meter.ledger.thread(0)[0] == 0


def test_a_request_in_many_steps_is_cancelled_when_it_has_taken_its_share(
    runner: asyncio.Runner, meter: Meter
) -> None:
    async def work() -> None:
        while True:
            burn(1)
            await asyncio.sleep(0)

    async def main() -> int:
        task, account = begin(work(), limit_ms=10)
        with pytest.raises(asyncio.CancelledError):
            await task
        return account.cost

    assert 10 * MS < runner.run(main()) < 13 * MS


def test_whatever_a_request_has_started_is_cancelled_with_it(runner: asyncio.Runner, meter: Meter) -> None:
    left: list[asyncio.Task[None]] = []

    async def child() -> None:
        while True:
            burn(1)
            await asyncio.sleep(0)

    async def work() -> None:
        left.append(asyncio.create_task(child()))
        await asyncio.sleep(60)

    async def main() -> None:
        task, _ = begin(work(), limit_ms=10)
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait(left, timeout=10)
        assert left[0].cancelled()

    runner.run(main())


def test_a_request_that_resists_is_told_of_once(runner: asyncio.Runner, meter: Meter) -> None:
    resisted: list[Account] = []
    meter.on_resisted = resisted.append

    async def work() -> None:
        while len(resisted) < 1 or account_of().cost < 200 * MS:
            try:
                burn(5)
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                pass

    def account_of() -> Account:
        call = current.get()
        assert call is not None
        account: Account = call.account
        return account

    async def main() -> Account:
        task, account = begin(work(), limit_ms=10)
        await asyncio.wait([task])
        return account

    account = runner.run(main())
    assert resisted == [account]


@pytest.mark.parametrize(("share", "lives"), [(0.05, True), (1.0, False)])
def test_what_a_request_has_started_for_others_may_go_on_after_it_as_long_as_it_does_not_spin(
    runner: asyncio.Runner, meter: Meter, monkeypatch: pytest.MonkeyPatch, share: float, lives: bool
) -> None:
    """The time that passes is made of what the task takes, and of what it does not take."""
    monkeypatch.setattr(accounting, "_now", lambda: int(time.thread_time_ns() / share))

    async def serve() -> None:
        for _ in range(100):
            burn(1)
            await asyncio.sleep(0)

    async def main() -> bool:
        task, account = begin(serve(), limit_ms=20)
        meter.release(account)
        await asyncio.wait([task])
        return not task.cancelled()

    assert runner.run(main()) is lives


def test_a_step_after_the_answer_begins_with_what_is_not_forgiven(
    runner: asyncio.Runner, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    async def serve() -> None:
        seen.append(time.thread_time_ns() - meter.ledger.pulse.since)

    async def main() -> None:
        now = 0
        monkeypatch.setattr(accounting, "_now", lambda: now)
        for passed in (0, 100 * MS, 1000 * MS):
            task, account = begin(serve())
            meter.release(account)
            account.cost = 80 * MS
            now += passed
            await task

    runner.run(main())
    assert [taken // MS for taken in seen] == [80, 55, 0]


def test_the_ledger_names_the_request_in_a_step_and_nobody_after_its_answer(
    runner: asyncio.Runner, meter: Meter
) -> None:
    seen: list[Any] = []
    accounts = [meter.nobody]

    async def work() -> None:
        seen.append(meter.ledger.pulse.running)
        meter.release(accounts[0])
        seen.extend((meter.ledger.pulse.running, meter.ledger.late_name))
        await asyncio.sleep(0)
        seen.append(meter.ledger.pulse.running)

    async def main() -> None:
        task, accounts[0] = begin(work(), 2)
        await task

    runner.run(main())
    assert seen == [2, meter.ledger.nobody, "request-2", meter.ledger.nobody]


def test_work_of_nobody_has_no_limit(runner: asyncio.Runner, meter: Meter) -> None:
    async def main() -> None:
        for _ in range(5):
            await asyncio.create_task(asyncio.sleep(0))
            burn(1)

    runner.run(main())
    assert meter.nobody.cost == 0
    assert meter.ledger.pulse.running == -1


def test_a_charged_coroutine_looks_like_the_one_it_wraps(runner: asyncio.Runner, meter: Meter) -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("from inside")

    async def main() -> None:
        task = asyncio.create_task(failing(), name="mine")
        coroutine: Any = task.get_coro()
        assert (task.get_name(), coroutine.__name__) == ("mine", "failing")
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
        assert "failing" in repr(task)
        with pytest.raises(ValueError, match="from inside") as caught:
            await task
        assert traceback.extract_tb(caught.tb)[-1].name == "failing"

    runner.run(main())


def test_a_traceback_has_the_function_s_frames_and_none_of_ours(runner: asyncio.Runner, meter: Meter) -> None:
    async def inner() -> None:
        await asyncio.sleep(60)

    async def outer(task: asyncio.Task[None]) -> None:
        await task

    async def main() -> None:
        task = asyncio.create_task(inner())
        waiting = asyncio.create_task(outer(task))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await waiting
        told = "".join(traceback.format_exception(caught.value))
        assert "in inner" in told
        assert "in outer" in told
        assert "steps.py" not in told

    runner.run(main())


def test_a_task_that_is_cancelled_or_never_begins_leaves_nothing_behind(
    runner: asyncio.Runner, meter: Meter
) -> None:
    async def waiting(held: Held) -> None:
        await asyncio.sleep(60)

    async def main(begins: bool) -> weakref.ref[Held]:
        held = Held()
        task = asyncio.create_task(waiting(held))
        if begins:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return weakref.ref(held)

    gc.disable()
    try:
        assert [runner.run(main(begins))() for begins in (True, False)] == [None, None]
    finally:
        gc.enable()


def test_anyio_works_with_it(runner: asyncio.Runner, meter: Meter) -> None:
    async def piece(numbers: list[int], number: int) -> None:
        await anyio.lowlevel.checkpoint()
        numbers.append(number)

    async def main() -> list[int]:
        numbers: list[int] = []
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(piece, numbers, number)
        with anyio.move_on_after(0.01):
            await anyio.sleep(60)
        return numbers

    assert sorted(runner.run(main())) == [0, 1, 2]


def test_generators_and_results_pass_through(runner: asyncio.Runner, meter: Meter) -> None:
    async def pieces() -> AsyncIterator[int]:
        for number in range(3):
            yield number
            await asyncio.sleep(0)

    async def work() -> list[int]:
        return [number async for number in pieces()]

    async def main() -> list[int]:
        task, _ = begin(work())
        numbers: list[int] = await task
        return numbers

    assert runner.run(main()) == [0, 1, 2]
    assert meter.ledger.pulse == Pulse(-1, meter.ledger.pulse.since, 0)


def test_an_error_that_a_future_holds_goes_when_its_task_does(runner: asyncio.Runner, meter: Meter) -> None:
    class Failed(Exception):
        """One that can be watched."""

    async def failing(futures: list[asyncio.Future[None]]) -> None:
        await futures.pop()

    async def main() -> weakref.ref[Failed]:
        future, error = asyncio.get_running_loop().create_future(), Failed()
        task = asyncio.create_task(failing([future]))
        await asyncio.sleep(0)
        future.set_exception(error)
        await asyncio.wait([task])
        assert task.exception() is error
        return weakref.ref(error)

    gc.disable()
    try:
        assert runner.run(main())() is None
    finally:
        gc.enable()
