"""Many equal time limits behind one timer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial

import pytest

from runtime.gateway.deadlines import Clocks, Deadlines
from runtime.project.settings import Limits
from tests.gateway.house import until

pytestmark = pytest.mark.anyio


class Entry:
    """Calls something when it has expired."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self.limits: list[Deadlines] = []

    def expired(self, limit: Deadlines) -> None:
        self.limits.append(limit)
        self._ring()


async def test_what_is_not_removed_in_time_is_called_in_order() -> None:
    rung: list[int] = []
    deadlines = Deadlines(0.02)
    for number in range(3):
        deadlines.add(Entry(partial(rung.append, number)))
    await until(lambda: len(rung) == 3)
    assert rung == [0, 1, 2]


async def test_what_is_removed_is_not_called_and_does_not_delay_the_next() -> None:
    rung: list[str] = []
    deadlines = Deadlines(0.02)
    first, second = Entry(partial(rung.append, "first")), Entry(partial(rung.append, "second"))
    deadlines.add(first)
    deadlines.add(second)
    deadlines.remove(first)
    deadlines.remove(first)
    await until(lambda: rung)
    assert rung == ["second"]


async def test_a_later_entry_is_not_called_with_an_earlier_one() -> None:
    rung: list[str] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    due: list[float] = []

    def ring(name: str) -> None:
        rung.append(name)
        due.append(loop.time() - began)

    deadlines = Deadlines(0.05)
    deadlines.add(Entry(partial(ring, "first")))
    await asyncio.sleep(0.03)
    deadlines.add(Entry(partial(ring, "second")))
    await until(lambda: len(rung) == 2)
    assert due[0] >= 0.049
    assert due[1] >= 0.079


async def test_the_timer_serves_those_who_come_after_it_has_rung() -> None:
    rung: list[str] = []
    deadlines = Deadlines(0.01)
    for name in ("first", "second"):
        deadlines.add(Entry(partial(rung.append, name)))
        await until(lambda name=name: name in rung)  # type: ignore[misc]


async def test_no_limit_calls_nothing() -> None:
    deadlines = Deadlines(0)
    entry = Entry(lambda: pytest.fail("there is no limit"))
    deadlines.add(entry)
    deadlines.touch(entry)
    deadlines.remove(entry)
    await asyncio.sleep(0.01)


async def test_what_is_touched_begins_anew() -> None:
    loop = asyncio.get_running_loop()
    due: list[float] = []
    entry = Entry(lambda: due.append(loop.time()))
    deadlines = Deadlines(0.05)
    deadlines.add(entry)
    await asyncio.sleep(0.03)
    touched = loop.time()
    deadlines.touch(entry)
    await until(lambda: due)
    assert due[0] >= touched + 0.049
    assert entry.limits == [deadlines]


async def test_a_touch_does_not_bring_back_what_was_removed() -> None:
    rung: list[str] = []
    deadlines = Deadlines(0.01)
    removed = Entry(partial(rung.append, "removed"))
    deadlines.add(removed)
    deadlines.remove(removed)
    deadlines.touch(removed)
    deadlines.add(Entry(partial(rung.append, "other")))
    await until(lambda: rung)
    assert rung == ["other"]


async def test_one_that_expires_may_remove_another_and_add_a_third() -> None:
    rung: list[str] = []
    deadlines = Deadlines(0.01)
    second, third = Entry(partial(rung.append, "second")), Entry(partial(rung.append, "third"))

    def first() -> None:
        rung.append("first")
        deadlines.remove(second)
        deadlines.add(third)

    deadlines.add(Entry(first))
    deadlines.add(second)
    await until(lambda: "third" in rung)
    assert rung == ["first", "third"]


async def test_a_deadline_is_a_moment_of_the_clock_that_all_processes_share() -> None:
    clocks = Clocks(Limits(timeout_s=5))
    assert math.isclose(clocks.deadline() - time.monotonic(), 5, abs_tol=0.1)
    assert Clocks(Limits(timeout_s=0)).deadline() == 0
