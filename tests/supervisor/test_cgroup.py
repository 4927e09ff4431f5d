"""Control groups: finding one that is ours to divide, and dividing it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.supervisor import cgroup
from runtime.supervisor.cgroup import Found, Groups, Limits
from tests.running import eventually

OURS = (100, 101)


class Machine:
    """Something like /sys/fs/cgroup and /proc/self of a machine, in a folder."""

    def __init__(self, root: Path, path: str) -> None:
        self.top = root / "sys fs" / "cgroup"
        self.proc = root / "proc"
        self.group = self.top / path.strip("/")
        self.group.mkdir(parents=True)
        for folder in (self.group, *self.group.parents):
            if folder.is_relative_to(self.top):
                self.furnish(folder)
        self.proc.mkdir()
        (self.proc / "cgroup").write_text(f"4:memory:/old\n0::{path}\n")
        point = str(self.top).replace(" ", "\\040")
        (self.proc / "mountinfo").write_text(
            f"22 1 0:20 / /proc rw - proc proc rw\n31 22 0:27 / {point} rw,nosuid - cgroup2 cgroup2 rw\n"
        )

    def furnish(self, folder: Path, processes: str = "") -> None:
        (folder / "cgroup.procs").write_text(processes)
        (folder / "cgroup.controllers").write_text("cpu io memory pids\n")
        (folder / "cgroup.subtree_control").write_text("")
        if folder != self.top:
            (folder / "cgroup.type").write_text("domain\n")

    def find(self) -> Found:
        return cgroup.find(OURS, str(self.proc))


@pytest.fixture
def delegated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A service with `Delegate=yes`, that holds us and nobody else."""
    machine = Machine(tmp_path, "/system.slice/functions.service")
    (machine.group / "cgroup.procs").write_text("100\n101\n")
    marked = str(machine.group)
    monkeypatch.setattr(cgroup, "_attribute", lambda folder, name: b"1" if str(folder) == marked else b"")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return machine


# finding


def test_a_delegated_group_is_found(delegated: Machine) -> None:
    assert delegated.find() == Found(folder=str(delegated.group), controllers=("memory", "pids"))


def test_one_that_was_not_given_is_not_taken(delegated: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, which does not make everything ours."""
    monkeypatch.setattr(cgroup, "_attribute", lambda folder, name: b"")
    assert delegated.find() == Found(why_not=f"{delegated.group} was not delegated to us")


def test_one_that_belongs_to_our_user_was_given(delegated: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_attribute", lambda folder, name: b"")
    os.chown(delegated.group, 1234, -1) if os.getuid() == 0 else None
    monkeypatch.setattr(os, "geteuid", lambda: delegated.group.stat().st_uid)
    assert delegated.find().controllers == ("memory", "pids")


def test_processes_of_others_are_not_moved(delegated: Machine) -> None:
    """As the shell of a terminal that shares the group: groups without limits remain."""
    (delegated.group / "cgroup.procs").write_text("100\n101\n4711\n")
    reason = f"{delegated.group} holds processes that are not ours"
    assert delegated.find() == Found(folder=str(delegated.group), why_not=reason)


def test_a_container_may_have_a_root_of_its_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "/")
    (machine.top / "cgroup.type").write_text("domain\n")
    (machine.top / "cgroup.procs").write_text("100\n101\n")
    assert machine.find() == Found(folder=str(machine.top), controllers=("memory", "pids"))


def test_a_group_above_the_mount_is_out_of_reach(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "/")
    (machine.proc / "cgroup").write_text("0::/../elsewhere\n")
    assert machine.find().why_not == "there are no control groups of version 2 here"


def test_without_the_controllers_there_are_groups_without_limits(delegated: Machine) -> None:
    (delegated.group / "cgroup.controllers").write_text("hugetlb\n")
    found = delegated.find()
    assert (found.folder, found.controllers) == (str(delegated.group), ())
    assert found.why_not.endswith("has neither the memory nor the pids controller")


def test_version_one_alone_is_none(delegated: Machine) -> None:
    (delegated.proc / "cgroup").write_text("4:memory:/old\n1:cpu:/\n")
    assert delegated.find() == Found(why_not="there are no control groups of version 2 here")


def test_a_system_without_any_is_told(tmp_path: Path) -> None:
    found = cgroup.find(OURS, str(tmp_path / "no proc"))
    assert found == Found(why_not="there are no control groups of version 2 here")


def test_what_cannot_be_written_is_told(delegated: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert delegated.find() == Found(why_not=f"{delegated.group} is not writable")


# dividing


@pytest.fixture
def written(delegated: Machine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is written into the group, in order: (path inside it, value)."""
    writes: list[tuple[str, str]] = []

    def write(path: Path, value: str) -> None:
        writes.append((str(path.relative_to(delegated.group)), value))

    monkeypatch.setattr(Groups, "_write", staticmethod(write))
    return writes


def settings_of(group: Path) -> None:
    """The files that the kernel puts into a new group."""
    group.mkdir()
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.kill"):
        (group / name).touch()


def test_our_processes_leave_the_group_before_it_gets_limits(
    delegated: Machine, written: list[tuple[str, str]]
) -> None:
    Groups(delegated.find()).open(OURS)
    server = "functions-server/cgroup.procs"
    control = "cgroup.subtree_control"
    assert written == [(server, "100"), (server, "101"), (control, "+memory"), (control, "+pids")]


def test_a_worker_has_its_limits_before_it_is_inside(
    delegated: Machine, written: list[tuple[str, str]]
) -> None:
    settings_of(delegated.group / "functions-4711")
    Groups(delegated.find()).admit(4711, Limits(memory=1 << 29, processes=64))
    assert written == [
        ("functions-4711/memory.max", "536870912"),
        ("functions-4711/memory.swap.max", "0"),
        ("functions-4711/memory.oom.group", "1"),
        ("functions-4711/pids.max", "64"),
        ("functions-4711/cgroup.procs", "4711"),
    ]


def test_zero_is_no_limit(delegated: Machine, written: list[tuple[str, str]]) -> None:
    settings_of(delegated.group / "functions-4711")
    Groups(delegated.find()).admit(4711, Limits())
    assert written == [("functions-4711/cgroup.procs", "4711")]


def test_a_worker_that_is_gone_leaves_no_group(delegated: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, value: str) -> None:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(Groups, "_write", staticmethod(refuse))
    with pytest.raises(ProcessLookupError):
        Groups(delegated.find()).admit(4711, Limits())
    assert list(delegated.group.glob("functions-*")) == []


def test_a_refusal_leaves_everything_as_it_was(delegated: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[str, str]] = []

    def write(path: Path, value: str) -> None:
        if path.name == "cgroup.subtree_control":
            raise OSError(16, "Device or resource busy")
        moved.append((path.parent.name, value))
        path.write_text("100\n101\n" if path.parent.name == "functions-server" else "")

    monkeypatch.setattr(Groups, "_write", staticmethod(write))
    with pytest.raises(OSError, match="busy"):
        Groups(delegated.find()).open(OURS)
    home = delegated.group.name
    assert moved == [("functions-server", "100"), ("functions-server", "101"), (home, "100"), (home, "101")]


def test_the_kernels_verdict_is_read(delegated: Machine) -> None:
    group = delegated.group / "functions-4711"
    group.mkdir()
    groups = Groups(delegated.find())
    assert not groups.was_out_of_memory(4711)
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 51\noom 1\noom_kill 0\noom_group_kill 0\n")
    assert not groups.was_out_of_memory(4711)
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 51\noom 1\noom_kill 1\noom_group_kill 1\n")
    assert groups.was_out_of_memory(4711)


def test_groups_of_an_earlier_server_are_removed(delegated: Machine, written: list[tuple[str, str]]) -> None:
    (delegated.group / "functions-99").mkdir()
    (delegated.group / "of-somebody-else").mkdir()
    Groups(delegated.find()).open(OURS)
    assert not (delegated.group / "functions-99").exists()
    assert (delegated.group / "of-somebody-else").exists()


def test_a_kernel_that_cannot_end_groups_says_so(delegated: Machine) -> None:
    (delegated.group / "functions-4711").mkdir()
    assert not Groups(delegated.find()).kill(4711)


# for real

here = cgroup.find([os.getpid()])

DAEMON = """
import os, sys, time
print("up", flush=True)
sys.stdin.readline()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(0), os.close(1)
        time.sleep(60)
    os._exit(0)
os.wait()
print("forked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def groups() -> Iterator[Groups]:
    """Groups without limits: nobody has to be moved for them."""
    groups = Groups(Found(folder=here.folder))
    groups.open([])
    yield groups
    groups.close()


@pytest.mark.skipif(not here.folder, reason=f"control groups: {here.why_not}")
def test_ending_a_group_ends_a_daemon_in_a_session_of_its_own(groups: Groups) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", DAEMON], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdout.readline()
            groups.admit(worker.pid, Limits(memory=1 << 30, processes=50))
            worker.stdin.write("fork\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "forked\n"
            members = groups.members(worker.pid)
            assert worker.pid in members
            assert len(members) == 2
            assert not groups.dismiss(worker.pid)
            if groups.kill(worker.pid):
                eventually(lambda: not groups.members(worker.pid), "the end of the daemon")
        finally:
            for pid in {worker.pid, *groups.members(worker.pid)}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        worker.wait()
        eventually(lambda: groups.dismiss(worker.pid), "the removal of the group")
    assert not Path(here.folder, f"functions-{worker.pid}").exists()
