"""What a worker takes, against what it may take."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import proc
from runtime.gateway import memoryfiles, usage
from runtime.gateway.family import MOST_PROCESSES, Found, Pace
from runtime.gateway.memory import Status
from runtime.gateway.usage import MEGABYTE, Background, Excess, Usage
from runtime.project.settings import Limits
from tests.running import eventually

STRANGER = 54_322


class Played:
    """Stands for the worker's meter and for its family, and says what the test wants."""

    inherited = 0
    sharers = 0

    def __init__(self) -> None:
        self.own: Status | None = Status(STRANGER, 0, 0)
        self.found: Found | None = Found()
        self.pace = Pace(0)
        self.samples = 0
        self.closed = False
        self.may_look = threading.Event()
        self.may_look.set()
        self.looked_on: list[str] = []

    def sample(self) -> Status | None:
        self.samples += 1
        return self.own

    def look(self) -> Found | None:
        self.looked_on.append(threading.current_thread().name)
        self.may_look.wait(10)
        return self.found

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    played = Played()
    monkeypatch.setattr(usage, "Meter", lambda pid: played)
    monkeypatch.setattr(usage, "Family", lambda *arguments: played)
    monkeypatch.setattr(memoryfiles, "_doomed", {})
    yield played
    played.may_look.set()


@pytest.fixture
def use(tmp_path: Path, played: Played) -> Iterator[Callable[..., Usage]]:
    made: list[Usage] = []

    def use(**limits: Any) -> Usage:
        made.append(Usage(os.getpid(), str(tmp_path), Limits(**limits)))
        return made[-1]

    yield use
    for one in made:
        usage._living.discard(one)


def at_last(own: Usage, *, busy: bool = True) -> Excess:
    """What it is over, once the thread has looked."""
    excess = eventually(lambda: own.look(time.monotonic(), busy=busy), "the excess")
    assert excess is not None
    return excess


def looked(own: Usage, played: Played, count: int = 2) -> None:
    """The thread has looked so many times more, and what it found was judged harmless."""
    before = len(played.looked_on)

    def look() -> bool:
        assert own.look(time.monotonic(), busy=True) is None
        return len(played.looked_on) > before + count

    eventually(look, "looks")


def test_a_worker_within_its_limits_is_left_alone(played: Played, use: Callable[..., Usage]) -> None:
    own = use(memory_mb=10)
    played.own, played.found = (
        Status(STRANGER, 4 * MEGABYTE, 0),
        Found(others=6 * MEGABYTE, processes=MOST_PROCESSES),
    )
    looked(own, played)
    assert own.memory == 10 * MEGABYTE


def test_one_over_its_memory_is_told_so_without_any_thread(played: Played, use: Callable[..., Usage]) -> None:
    played.may_look.clear()
    played.own = Status(STRANGER, 11 * MEGABYTE, MEGABYTE)
    excess = use(memory_mb=10).look(time.monotonic(), busy=True)
    assert excess is not None
    assert excess.error.message == "The function's worker took more than 10 MB of memory (memory_mb)"
    assert excess.found == "it had 12 MB of memory; memory_mb is 10"


def test_looking_at_what_it_has_started_keeps_nobody_waiting(
    played: Played, use: Callable[..., Usage]
) -> None:
    """A look that takes long, as at a hundred children of 300 MB, is on a thread."""
    own = use(memory_mb=10)
    played.may_look.clear()
    began = time.monotonic()
    for _ in range(20):
        assert own.look(time.monotonic(), busy=True) is None
    assert time.monotonic() - began < 1
    eventually(lambda: played.looked_on, "the look")
    assert threading.current_thread().name not in played.looked_on
    played.found = Found(exact=12 * MEGABYTE, processes=100)
    played.may_look.set()
    assert at_last(own).found == "it had 12 MB of memory; memory_mb is 10"


def test_memory_that_was_counted_twice_is_no_excess(played: Played, use: Callable[..., Usage]) -> None:
    played.found = Found(others=12 * MEGABYTE, processes=4, exact=6 * MEGABYTE)
    looked(use(memory_mb=10), played)


def test_where_it_cannot_be_counted_exactly_the_estimate_holds(
    played: Played, use: Callable[..., Usage]
) -> None:
    played.found = Found(others=12 * MEGABYTE, processes=4, blind=True)
    assert "12 MB" in at_last(use(memory_mb=10)).found


def test_files_in_memory_count(played: Played, use: Callable[..., Usage]) -> None:
    played.own, played.found = Status(STRANGER, 0, 5 * MEGABYTE), Found(shared=12 * MEGABYTE)
    assert "12 MB" in at_last(use(memory_mb=10)).found


def test_one_that_can_have_no_more_is_over_its_memory(played: Played, use: Callable[..., Usage]) -> None:
    played.own, played.found = Status(STRANGER, 3 * MEGABYTE, 0, 200 * MEGABYTE), Found(stop=200 * MEGABYTE)
    excess = at_last(use(memory_mb=10))
    assert "memory_mb" in excess.error.message
    assert "3 MB in use" in excess.found


def test_a_limit_of_zero_is_none(played: Played, use: Callable[..., Usage]) -> None:
    played.own, played.found = Status(STRANGER, 1 << 40, 0, 1 << 40), Found(stop=1 << 40, others=1 << 40)
    looked(use(memory_mb=0), played)


def test_the_workers_of_one_user_share_what_it_has(played: Played, use: Callable[..., Usage]) -> None:
    first, second = use(), use()
    for own in (first, second, first):
        looked(own, played)
    assert played.sharers == 2


def test_what_was_not_counted_to_its_end_is_told_as_such(played: Played, use: Callable[..., Usage]) -> None:
    played.found = Found(shared=10 * MEGABYTE + 1)
    assert at_last(use(memory_mb=10)).found == "it had more than 10 MB of memory; memory_mb is 10"


def test_one_with_countless_processes_is_told_so(played: Played, use: Callable[..., Usage]) -> None:
    played.found = Found(processes=MOST_PROCESSES + 1)
    assert "processes" in at_last(use()).error.message


def test_a_folder_over_its_size_is_told(played: Played, use: Callable[..., Usage]) -> None:
    played.found = Found(full=True)
    assert at_last(use(tmp_mb=1)).error.message == (
        "The function's worker filled its temporary folder with more than 1 MB (tmp_mb)"
    )


def test_one_that_is_gone_is_over_nothing(played: Played, use: Callable[..., Usage]) -> None:
    played.own = played.found = None
    own = use(memory_mb=10)
    assert own.look(time.monotonic(), busy=True) is None
    own.close()
    assert played.closed


def test_what_was_found_before_it_was_gone_is_not_found_again(
    played: Played, use: Callable[..., Usage]
) -> None:
    own = use(memory_mb=10)
    played.found = None
    looked(own, played)
    assert own.memory == 0


@pytest.mark.parametrize(("memory", "samples"), [(4, 10), (6, 20)], ids=["below half", "above half"])
def test_it_is_looked_at_more_often_when_it_is_above_half_of_its_memory(
    memory: int, samples: int, played: Played, use: Callable[..., Usage]
) -> None:
    own = use(memory_mb=10)
    played.own = Status(STRANGER, memory * MEGABYTE, 0)
    own.look(99.0, busy=True)
    played.samples = 0
    for number in range(20):  # within a second
        own.look(100 + number * 0.05, busy=True)
    assert played.samples == samples


def test_an_idle_worker_is_looked_at_every_three_seconds_and_a_busy_one_at_once(
    played: Played, use: Callable[..., Usage]
) -> None:
    own = use(memory_mb=10)
    assert own.look(100.0, busy=False) is None
    own.look(102.8, busy=False)
    assert played.samples == 1
    own.look(102.85, busy=True)
    assert played.samples == 2
    own.look(105.7, busy=False)
    assert played.samples == 2
    own.look(105.8, busy=False)
    assert played.samples == 3


# processor time without a request


def spend(background: Background, share: float, seconds: int, began: int = 0) -> int | None:
    """The second in which it is over; each is spent by this share of a core."""
    for second in range(began, began + seconds + 1):
        if background.look(float(second), int(1000 * share * second)) is not None:
            return second
    return None


@pytest.mark.parametrize(("share", "over"), [(0.25, None), (0.5, 41), (1.0, 14), (4.0, 3)])
def test_a_quarter_of_a_core_may_go_on_for_ever_and_more_for_a_while(share: float, over: int | None) -> None:
    assert spend(Background(10_000), share, 10_000) == over


def test_the_excess_of_an_idle_worker_names_the_limit() -> None:
    background = Background(1000)
    background.look(0, 0)
    excess = background.look(1, 1300)
    assert excess is not None
    assert excess.error.limit == "cpu_ms"
    assert excess.error.message == (
        "The function's worker took more than 1000 ms of CPU without a request (cpu_ms)"
    )
    assert (
        excess.found == "without a request it took 1050 ms of CPU beyond a quarter of a core; cpu_ms is 1000"
    )


def test_what_is_taken_while_there_are_requests_does_not_count() -> None:
    background = Background(1000)
    for second in range(100):
        background.pause()
        assert background.look(second, 5000 * second) is None


def test_a_limit_of_zero_leaves_idle_workers_alone() -> None:
    assert spend(Background(0), 4, 100) is None


def test_only_an_idle_worker_s_time_is_judged(played: Played, use: Callable[..., Usage]) -> None:
    def burn(own: Usage, *, busy: bool) -> Excess | None:
        for second in range(30):
            played.found = Found(at=float(second), cpu=1000 * second)
            count = len(played.looked_on)
            own.look(1000.0 + 3 * second, busy=busy)
            eventually(lambda count=count: len(played.looked_on) > count, "the look")  # type: ignore[misc]
            eventually(lambda: own._looking is None or own._looking.done(), "its result")
            if (excess := own.look(1000.5 + 3 * second, busy=busy)) is not None:
                return excess
        return None

    assert burn(use(cpu_ms=1000), busy=True) is None
    excess = burn(use(cpu_ms=1000), busy=False)
    assert excess is not None
    assert excess.error.limit == "cpu_ms"


# its end


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    users: list[int] = []
    monkeypatch.setattr(memoryfiles, "remove", users.append)
    monkeypatch.setattr(usage, "_living", set())
    return users


def closed(own: Usage, user: int) -> None:
    own._own = Status(user, 0, 0)
    own.close()
    usage._removing.submit(lambda: None).result()


def test_what_its_user_left_goes_with_the_last_of_its_workers(
    use: Callable[..., Usage], removed: list[int]
) -> None:
    first, second = use(), use()
    second._own = Status(STRANGER, 0, 0)
    closed(first, STRANGER)
    assert removed == []
    closed(second, STRANGER)
    assert removed == [STRANGER]


def test_workers_of_our_own_user_leave_what_may_be_anybodys(
    use: Callable[..., Usage], removed: list[int]
) -> None:
    closed(use(), os.geteuid())
    assert removed == []


def test_what_a_greedy_one_left_goes_at_once(
    played: Played, use: Callable[..., Usage], removed: list[int]
) -> None:
    """Else it counted against the next, and so for ever."""
    first, second = use(memory_mb=10), use()
    second._own = Status(STRANGER, 0, 0)
    played.own = Status(STRANGER, 11 * MEGABYTE, 0)
    assert first.look(time.monotonic(), busy=True) is not None
    closed(first, STRANGER)
    assert removed == [STRANGER]


@pytest.mark.skipif(proc.stat(os.getpid()) is None, reason="there is no /proc here")
def test_a_real_worker_is_looked_at(tmp_path: Path) -> None:
    own = Usage(os.getpid(), str(tmp_path), Limits(tmp_mb=1))
    try:
        (tmp_path / "file").write_bytes(bytes(MEGABYTE + 1))
        assert at_last(own).error.limit == "tmp_mb"
        assert own._own.user == os.geteuid()
    finally:
        own.close()
