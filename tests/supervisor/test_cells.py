"""Control groups for workers, as process 0 uses them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from runtime.supervisor import cells as module
from runtime.supervisor.cells import Cells
from runtime.supervisor.cgroup import Found, Limits

MEGABYTE = 1 << 20


class PlayedGroups:
    """Notes what is asked of it."""

    def __init__(self, found: Found) -> None:
        self.opened: list[int] = []
        self.admitted: dict[int, Limits] = {}
        self.killed: list[int] = []
        self.busy: set[int] = set()
        self.refuses = self.closed = False

    def open(self, ours: Iterable[int]) -> None:
        if self.refuses:
            raise OSError
        self.opened = [*ours]

    def admit(self, pid: int, limits: Limits) -> None:
        if self.refuses:
            raise OSError
        self.admitted[pid] = limits

    def kill(self, pid: int) -> bool:
        self.killed.append(pid)
        return True

    def was_out_of_memory(self, pid: int) -> bool:
        return pid == 13

    def dismiss(self, pid: int) -> bool:
        if pid in self.busy:
            return False
        self.admitted.pop(pid, None)
        return True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> PlayedGroups:
    found = Found(folder="/given", controllers=("memory",))
    groups = PlayedGroups(found)
    monkeypatch.setattr(module, "find", lambda ours: found)
    monkeypatch.setattr(module, "Groups", lambda found: groups)
    return groups


def test_a_worker_is_shut_in_with_a_margin_and_its_group_goes_with_it(groups: PlayedGroups) -> None:
    cells = Cells()
    cells.open((1, 2))
    assert groups.opened == [1, 2]
    cells.admit(7, 100)
    assert groups.admitted == {7: Limits(memory=125 * MEGABYTE)}
    assert cells.kill(7)
    assert cells.ended(7) is False
    assert groups.admitted == {}
    cells.close()
    assert groups.closed


def test_what_a_dead_worker_left_in_its_group_is_ended_and_the_group_goes_later(groups: PlayedGroups) -> None:
    cells = Cells()
    cells.open(())
    cells.admit(7, 0)
    groups.busy.add(7)
    cells.ended(7)
    assert groups.killed == [7]
    assert 7 in groups.admitted
    groups.busy.clear()
    cells.admit(8, 0)
    assert groups.admitted == {8: Limits()}


def test_one_that_the_kernel_ended_for_its_memory_is_known(groups: PlayedGroups) -> None:
    cells = Cells()
    cells.open(())
    assert [cells.ended(pid) for pid in (12, 13)] == [False, True]


def test_a_system_that_refuses_is_one_without_groups(groups: PlayedGroups) -> None:
    groups.refuses = True
    cells = Cells()
    cells.open((1,))
    cells.admit(7, 100)
    assert (cells.kill(7), cells.ended(7)) == (False, False)
    cells.close()
    assert not groups.closed


def test_without_a_group_of_ours_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find", lambda ours: Found(why_not="not delegated"))
    cells = Cells()
    cells.open((os.getpid(),))
    cells.admit(7, 100)
    assert (cells.kill(7), cells.ended(7)) == (False, False)
    cells.close()
