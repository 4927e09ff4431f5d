from __future__ import annotations

import asyncio

import pytest

from runtime import ai
from runtime.ai.timeout import Clock, timeout_of


async def never() -> None:
    await asyncio.Event().wait()


def test_a_number_bounds_the_whole_call() -> None:
    assert timeout_of(3) == ai.Timeout(connect=5, first_token=None, idle=None, total=3)


def test_none_sets_no_limit_on_the_whole() -> None:
    assert timeout_of(None).total is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "60"])
def test_a_limit_that_is_no_positive_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(ai.InvalidInput, match=r"^timeout is .*: give a"):
        timeout_of(value)  # type: ignore[arg-type]
    with pytest.raises(ai.InvalidInput, match=r"^timeout\.idle is .*: give a"):
        ai.Timeout(idle=value)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("timeout", "phase", "message"),
    [
        (ai.Timeout(total=0.01), "idle", r"m did not finish within 0\.01 s \(timeout\.total\)"),
        (
            ai.Timeout(first_token=0.01),
            "first_token",
            r"m sent nothing within 0\.01 s \(timeout\.first_token\)",
        ),
        (ai.Timeout(idle=0.01), "idle", r"m sent nothing for 0\.01 s.*\(timeout\.idle\)"),
        (ai.Timeout(idle=0.01, total=None), "idle", r"timeout\.idle"),
        (ai.Timeout(first_token=30, idle=30, total=0.01), "first_token", r"timeout\.total"),
        (ai.Timeout(first_token=30, idle=30, total=0.01), "idle", r"timeout\.total"),
    ],
)
async def test_the_message_names_the_limit_that_passed(timeout: ai.Timeout, phase: str, message: str) -> None:
    with pytest.raises(ai.InferenceTimeout, match=message):
        await Clock(timeout, "m").bounded(never(), phase)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_timeout_of_the_awaited_itself_stays_what_it_is() -> None:
    async def fails() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await Clock(ai.Timeout(), "m").bounded(fails())


@pytest.mark.anyio
async def test_without_limits_the_clock_waits() -> None:
    clock = Clock(ai.Timeout(total=None), "m")
    assert await clock.bounded(asyncio.sleep(0.001, "result")) == "result"
