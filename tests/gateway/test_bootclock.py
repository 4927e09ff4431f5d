from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from runtime.gateway.bootclock import limited, waited_s
from tests.running import eventually

pytestmark = pytest.mark.anyio

LIMIT_S = 0.1
SPIN = "while True: pass"


async def lasted(seconds: float, pid: int, waited: float) -> float:
    """How long it was let go on."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with limited(seconds, lambda: pid, lambda _: waited):
            await asyncio.sleep(30)
    return asyncio.get_running_loop().time() - began


async def test_the_time_is_limited() -> None:
    assert LIMIT_S <= await lasted(LIMIT_S, 1, 0.0) < 2 * LIMIT_S


async def test_waiting_for_a_processor_does_not_count() -> None:
    assert await lasted(LIMIT_S, 1, 2 * LIMIT_S) >= 3 * LIMIT_S


async def test_there_is_an_end_to_waiting() -> None:
    assert 1.0 <= await lasted(LIMIT_S, 1, 1000.0) < 10.0


async def test_the_time_until_there_is_a_process_does_not_count() -> None:
    loop = asyncio.get_running_loop()
    forked = loop.time() + 3 * LIMIT_S
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with limited(LIMIT_S, lambda: int(loop.time() >= forked), lambda _: 0.0):
            await asyncio.sleep(30)
    assert loop.time() - began >= 3 * LIMIT_S


async def test_zero_is_no_limit() -> None:
    async with limited(0, lambda: 0):
        await asyncio.sleep(0.01)


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this kernel does not count it")
def test_the_kernel_counts_it() -> None:
    core = min(os.sched_getaffinity(0))
    spinners = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(2)]
    try:
        for spinner in spinners:
            os.sched_setaffinity(spinner.pid, {core})
        eventually(lambda: waited_s(spinners[0].pid) > 0.1, "one that waits for the other")
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    assert waited_s(spinners[0].pid) == 0.0
