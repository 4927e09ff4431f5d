"""How much may wait at once."""

from __future__ import annotations

import asyncio

import pytest

from runtime.engine.admission import RESULTS, Admission
from runtime.errors import EngineUnavailable


def test_what_does_not_fit_is_refused_and_room_comes_back() -> None:
    admission = Admission(tokens=100)
    for _ in range(2):
        with admission.hold([100, 100], at_once=10):  # 41 tokens each, at a guess
            with pytest.raises(EngineUnavailable, match="overloaded"), admission.hold([100], at_once=10):
                pass
            with admission.hold([4], at_once=10):
                pass
    assert admission.waiting == 0


def test_a_call_needs_room_for_what_it_queues_at_once() -> None:
    with Admission(tokens=100).hold([100] * 1000, at_once=2):
        pass


def test_long_texts_need_more_room_but_not_for_what_no_model_reads() -> None:
    with pytest.raises(EngineUnavailable), Admission(tokens=500).hold([4096], at_once=10):
        pass
    with Admission(tokens=600).hold([400_000], at_once=10):
        pass


def test_tokens_count_as_soon_as_they_are_known() -> None:
    admission = Admission(tokens=1000)
    with admission.hold([2000], at_once=10) as room:  # 516 at a guess
        with pytest.raises(EngineUnavailable), admission.hold([2000], at_once=10):
            pass
        room.known([100])
        assert admission.waiting == 116
        with admission.hold([2000], at_once=10):
            pass
        room.known([300, 300])  # its next texts: too late to refuse it
        assert admission.waiting == 632
    assert admission.waiting == 0


def test_the_texts_of_all_calls_take_a_bounded_memory() -> None:
    admission = Admission(characters=1000)
    with (
        admission.hold([10] * 99, at_once=1),
        pytest.raises(EngineUnavailable),
        admission.hold([20], at_once=1),
    ):
        pass
    with admission.hold([1000], at_once=1):
        pass


def test_room_comes_back_after_a_failure() -> None:
    admission = Admission(tokens=20)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), admission.hold([1], at_once=1):
            raise ZeroDivisionError


def test_a_leaving_engine_refuses_everybody() -> None:
    admission = Admission()
    admission.close()
    with pytest.raises(EngineUnavailable, match="shutting down"), admission.hold([1], at_once=1):
        pass


MB = 1 << 20


@pytest.mark.anyio
async def test_results_that_nobody_reads_hold_up_their_own_connection_alone() -> None:
    admission = Admission()
    with (
        admission.hold([1], at_once=1, owner="slow") as first,
        admission.hold([1], at_once=1, owner="slow") as second,
        admission.hold([1], at_once=1, owner="other") as other,
    ):
        await first.results(RESULTS - MB)
        waiting = asyncio.create_task(second.results(32 * MB))
        await asyncio.sleep(0)
        await other.results(32 * MB)  # it has nothing that waits for its reader
        await asyncio.sleep(0)
        assert not waiting.done()
        await first.results(MB)  # the reader has taken the former
        await waiting
        assert admission.results == {"slow": 33 * MB, "other": 32 * MB}
    assert not admission.results
    assert admission.waiting == 0


@pytest.mark.anyio
async def test_small_results_wait_for_no_reader() -> None:
    admission = Admission()
    with (
        admission.hold([1], at_once=1, owner="slow") as slow,
        admission.hold([1], at_once=1, owner="other") as first,
        admission.hold([1], at_once=1, owner="other") as second,
    ):
        await slow.results(RESULTS)
        await first.results(MB)
        async with asyncio.timeout(10):
            await second.results(MB)
