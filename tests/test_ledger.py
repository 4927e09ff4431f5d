"""What a worker writes and the gateway reads."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.ledger import NOBODY_RUNS, RUNNING, Ledger, Pulse, new_file

CONNECTIONS = 5


def pair() -> tuple[Ledger, Ledger, int]:
    fd = new_file(CONNECTIONS)
    return Ledger(fd), Ledger(fd), fd


def test_a_new_ledger_says_nothing() -> None:
    gateway, worker, fd = pair()
    assert gateway.slots == worker.slots == CONNECTIONS + 1
    assert gateway.nobody == CONNECTIONS
    assert gateway.pulse == Pulse(-1, 0, 0)
    assert not any(gateway.is_begun(slot) or gateway.thread(slot)[0] for slot in range(gateway.slots))
    assert gateway.stacks() == gateway.late_name == ""
    os.close(fd)


def test_what_the_worker_does_is_seen_while_it_does_it() -> None:
    gateway, worker, fd = pair()
    os.close(fd)
    worker.begin(3)
    worker.enter(3, -42)
    assert (gateway.is_begun(3), gateway.pulse) == (True, Pulse(3, -42, 0))
    worker.words[RUNNING] = NOBODY_RUNS
    worker.beat()
    assert gateway.pulse == Pulse(-1, -42, 1)
    gateway.clear(3)
    assert not worker.is_begun(3)


def test_the_next_step_of_the_same_request_is_another_one() -> None:
    gateway, worker, fd = pair()
    os.close(fd)
    worker.enter(1, 40)
    before = gateway.pulse
    worker.words[RUNNING] = NOBODY_RUNS
    worker.enter(1, 41)
    assert gateway.pulse != before


def test_an_event_loop_beats_until_it_rests() -> None:
    gateway, worker, fd = pair()
    os.close(fd)
    told = [gateway.is_beating]
    for say in (worker.beat, worker.beat, worker.rest, worker.beat):
        say()
        told.append(gateway.is_beating)
    assert told == [False, True, True, False, True]
    assert gateway.pulse.beats == 3


def test_a_request_that_is_answered_gives_its_step_away_and_keeps_its_name() -> None:
    gateway, worker, fd = pair()
    os.close(fd)
    worker.enter(1, 0)
    worker.name(b"x" * 200)
    worker.disown()
    assert (gateway.pulse.running, gateway.late_name) == (gateway.nobody, "x" * 128)
    worker.name(b"request-2")
    assert gateway.late_name == "request-2"


def test_threads_are_told_by_request_until_the_next_request() -> None:
    gateway, worker, fd = pair()
    os.close(fd)
    worker.employ(2, 4711, 99)
    assert gateway.thread(2) == (4711, 99)
    gateway.clear(2)
    assert gateway.thread(2)[0] == 0


def test_no_thread_is_ever_seen_with_the_reading_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what the thread has taken in all its life would count for one request."""
    _, worker, fd = pair()
    os.close(fd)
    seen: list[tuple[int, int]] = []

    class Words:
        def __init__(self) -> None:
            self.kept: dict[int, int] = {}

        def __getitem__(self, at: int) -> int:
            return self.kept.get(at, 0)

        def __setitem__(self, at: int, value: int) -> None:
            self.kept[at] = value
            seen.append(worker.thread(2))

    monkeypatch.setattr(worker, "words", Words())
    for thread, since in ((4711, 99), (4712, 7), (0, 0)):
        worker.employ(2, thread, since)
    assert {(thread, since) for thread, since in seen if thread} == {(4711, 99), (4712, 7)}


def test_it_outlives_its_worker() -> None:
    gateway, _, fd = pair()
    code = (
        f"import os\nfrom runtime.ledger import Ledger\nledger = Ledger({fd})\n"
        "ledger.begin(0)\nledger.enter(0, 0)\nledger.beat()\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], pass_fds=[fd]).returncode == -9
    assert (gateway.is_begun(0), gateway.pulse) == (True, Pulse(0, 0, 1))
    gateway.close()
    os.close(fd)


def test_stacks_are_written_behind_it_again_and_again() -> None:
    gateway, worker, fd = pair()
    theirs = os.dup(fd)
    worker.enter(4, 7)
    for _ in range(2):
        faulthandler.dump_traceback(theirs, all_threads=False)
        assert "in test_stacks_are_written_behind_it" in gateway.stacks()
        gateway.forget_stacks(fd)
        assert gateway.stacks() == ""
    assert gateway.pulse == Pulse(4, 7, 0)
    os.close(theirs)
    os.close(fd)


def test_more_stacks_than_there_is_room_for_are_cut() -> None:
    gateway, worker, fd = pair()
    with os.fdopen(fd, "wb", buffering=0, closefd=True) as file:
        assert 0 < (file.write(b"x" * 1_000_000) or 0) < 1_000_000
    assert set(gateway.stacks()) == {"x"}
    assert gateway.pulse == worker.pulse == Pulse(-1, 0, 0)


@given(st.lists(st.tuples(st.integers(0, CONNECTIONS), st.integers(-(2**62), 2**62))))
def test_slots_do_not_touch_one_another(writes: list[tuple[int, int]]) -> None:
    gateway, worker, fd = pair()
    os.close(fd)
    last = dict[int, int]()
    for slot, since in writes:
        worker.enter(slot, since)
        worker.words[RUNNING] = NOBODY_RUNS
        worker.employ(slot, 1, since)
        last[slot] = since
    assert [gateway.thread(slot)[1] for slot in range(gateway.slots)] == [
        last.get(slot, 0) for slot in range(gateway.slots)
    ]
    assert not any(gateway.is_begun(slot) for slot in range(gateway.slots))


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_worker_that_lies_about_who_runs_names_nobody_outside(running: int) -> None:
    gateway, worker, fd = pair()
    os.close(fd)
    worker.words[RUNNING] = running
    assert gateway.pulse.running < gateway.slots
