"""Memory of a worker's own process, measured from outside."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from runtime.gateway.memory import Meter, Status, parse_status
from tests.gateway.obedient import Obedient, obedient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc elsewhere")

MEGABYTE = 1 << 20
STATUS = b"""Name:\tfn:hello
Umask:\t0077
Uid:\t55000\t55000\t55000\t55000
VmRSS:\t   27656 kB
RssAnon:\t   21380 kB
RssFile:\t    6272 kB
RssShmem:\t       4 kB
VmData:\t   40000 kB
Threads:\t1
"""


@pytest.fixture
def worker() -> Iterator[Obedient]:
    with obedient() as process:
        yield process


@pytest.fixture
def metering() -> Iterator[Callable[[int], Meter]]:
    with contextlib.ExitStack() as stack:

        def meter(pid: int) -> Meter:
            return stack.enter_context(contextlib.closing(Meter(pid)))

        yield meter


def megabytes(status: Status | None) -> float:
    assert status is not None
    return (status.anonymous + status.shared) / MEGABYTE


def test_the_kernels_words_are_read() -> None:
    assert parse_status(STATUS) == (55000, 21380 * 1024, 4 * 1024, 40000 * 1024)


def test_a_process_that_has_ended_takes_nothing() -> None:
    assert parse_status(b"Name:\tfn:hello\nState:\tZ (zombie)\nThreads:\t1\n") == (0, 0, 0, 0)


@pytest.mark.parametrize("inherited", [0, 50])
def test_what_a_worker_allocates_is_counted_and_what_it_had_is_not(
    inherited: int, metering: Callable[[int], Meter]
) -> None:
    with obedient(inherited) as worker:
        meter = metering(worker.pid)
        assert megabytes(meter.sample()) < 1
        worker.do("kept.append(b'x' * (40 << 20))")
        assert 39 < megabytes(meter.sample()) < 42
        worker.do("kept.clear()")
        assert megabytes(meter.sample()) < 2


def test_memory_mapped_for_sharing_is_counted(worker: Obedient, metering: Callable[[int], Meter]) -> None:
    meter = metering(worker.pid)
    worker.do("kept.append(mmap.mmap(-1, 30 << 20)); kept[0].write(b'x' * (30 << 20))")
    assert 29 < megabytes(meter.sample()) < 33


def test_one_that_hides_its_memory_can_be_measured(
    worker: Obedient, metering: Callable[[int], Meter]
) -> None:
    worker.do("hide()")
    meter = metering(worker.pid)
    worker.do("kept.append(b'x' * (20 << 20))")
    assert 19 < megabytes(meter.sample()) < 22


def test_a_worker_that_is_gone_has_no_sample(metering: Callable[[int], Meter]) -> None:
    with obedient() as worker:
        meter = metering(worker.pid)
        assert meter.sample() is not None
    assert meter.sample() is None
    assert metering(worker.pid).sample() is None


def test_nothing_stays_open(worker: Obedient) -> None:
    before = len(os.listdir("/proc/self/fd"))
    meter = Meter(worker.pid)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    meter.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert meter.sample() is None
