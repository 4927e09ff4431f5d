"""Many equal time limits behind one timer."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from runtime.gateway.deadlines import Deadlines
from tests.gateway.house import until

pytestmark = pytest.mark.anyio


async def test_what_is_not_removed_in_time_is_called_in_order() -> None:
    rung: list[int] = []
    deadlines = Deadlines(0.02)
    for number in range(3):
        deadlines.add(partial(rung.append, number))
    await until(lambda: len(rung) == 3)
    assert rung == [0, 1, 2]


async def test_what_is_removed_is_not_called_and_does_not_delay_the_next() -> None:
    rung: list[str] = []
    deadlines = Deadlines(0.02)
    first, second = partial(rung.append, "first"), partial(rung.append, "second")
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
    deadlines.add(partial(ring, "first"))
    await asyncio.sleep(0.03)
    deadlines.add(partial(ring, "second"))
    await until(lambda: len(rung) == 2)
    assert due[0] >= 0.049
    assert due[1] >= 0.079


async def test_the_timer_serves_those_who_come_after_it_has_rung() -> None:
    rung: list[str] = []
    deadlines = Deadlines(0.01)
    for name in ("first", "second"):
        deadlines.add(partial(rung.append, name))
        await until(lambda name=name: name in rung)  # type: ignore[misc]


async def test_no_limit_calls_nothing() -> None:
    deadlines = Deadlines(0)
    deadlines.add(lambda: pytest.fail("there is no limit"))
    deadlines.remove(len)  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
