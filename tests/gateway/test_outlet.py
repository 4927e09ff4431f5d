"""Writing the log without ever blocking the event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from runtime.gateway import outlet as outlet_module
from runtime.gateway.outlet import Outlet
from tests.gateway.house import until

pytestmark = pytest.mark.anyio


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.read = b""

    def lines(self) -> list[str]:
        """What has been read so far."""
        try:
            while data := os.read(self.reader, 1 << 20):
                self.read += data
        except BlockingIOError:
            pass
        return self.read.decode().splitlines()

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    if pipe.reader >= 0:
        os.close(pipe.reader)
    os.close(pipe.writer)


def close(outlet: Outlet) -> None:
    """Closing waits for the thread, at the server's end alone."""
    outlet.close()


async def test_lines_arrive_in_order(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writer)
    for number in range(1000):
        outlet.write(f"line {number}")
    await until(lambda: len(pipe.lines()) == 1000)
    assert pipe.lines() == [f"line {number}" for number in range(1000)]
    await asyncio.to_thread(close, outlet)


async def test_closing_writes_what_waits(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writer)
    outlet.write("last words")
    await asyncio.to_thread(close, outlet)
    assert pipe.lines() == ["last words"]


async def test_what_cannot_be_encoded_is_replaced(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writer)
    outlet.write("half \ud800 a character")
    outlet.write("ö")
    await until(lambda: len(pipe.lines()) == 2)
    assert pipe.lines() == ["half ? a character", "ö"]
    await asyncio.to_thread(close, outlet)


async def test_a_reader_that_is_stuck_stops_nobody_and_is_told_what_it_missed(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet_module, "_MOST_WAITING", 100_000)
    outlet = Outlet(pipe.writer)
    longest = 0.0
    for _ in range(500):  # nobody reads: the pipe takes 64 KB, the outlet 100 KB
        began = time.perf_counter()
        outlet.write("x" * 999)
        longest = max(longest, time.perf_counter() - began)
        if outlet._timer is None or not outlet._batch[1:]:
            await asyncio.sleep(0.001)
        elif len(outlet._batch) >= 20:
            await until(lambda: not outlet._batch)
    assert longest < 0.5
    assert outlet._queued - outlet._done < 250_000
    await until(lambda: pipe.lines() and outlet._done == outlet._queued)
    outlet.write("room again")
    await until(lambda: "room again" in pipe.lines())
    await until(lambda: "lines dropped" in pipe.lines()[-1])
    whole = [line for line in pipe.lines() if line == "x" * 999]
    dropped = int(pipe.lines()[-1].split()[1])
    assert len(whole) + dropped == 500
    assert dropped > 100
    await asyncio.to_thread(close, outlet)


async def test_a_reader_that_left_is_no_error(pipe: Pipe) -> None:
    pipe.close_reader()
    outlet = Outlet(pipe.writer)
    outlet.write("to nobody")
    await until(lambda: outlet._queued and outlet._done == outlet._queued)
    outlet.write("to nobody")
    await asyncio.to_thread(close, outlet)
    assert not outlet._thread.is_alive()
