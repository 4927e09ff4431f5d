"""A worker and all that it has started, looked at from outside."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import folders, proc
from runtime.gateway import family as module
from runtime.gateway.family import MEGABYTE, Family, Folder, Found, Pace
from runtime.gateway.memory import Meter
from runtime.project.settings import Limits
from tests.gateway.obedient import Obedient, obedient
from tests.running import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc elsewhere")

PLENTY = Limits(memory_mb=100_000)


@pytest.fixture(autouse=True)
def _time_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted to the page is known at once, however slow this machine is."""
    monkeypatch.setattr(module, "_COUNT_S", 20.0)


@pytest.fixture
def worker() -> Iterator[Obedient]:
    with obedient() as process:
        yield process


@pytest.fixture
def family_of(tmp_path: Path) -> Callable[..., Family]:
    def family(worker: Obedient, limits: Limits = PLENTY) -> Family:
        meter = Meter(worker.pid)
        meter.close()
        return Family(worker.pid, str(tmp_path), limits, meter.inherited)

    return family


def look(family: Family) -> Found:
    found = family.look()
    assert found is not None
    return found


def others(family: Family) -> float:
    """Megabytes of what the worker has started."""
    return look(family).others / MEGABYTE


@pytest.mark.parametrize(
    "start",
    [
        "fork(lambda: kept.append(b'x' * (30 << 20)))",
        "on_a_thread(lambda: fork(lambda: kept.append(b'x' * (30 << 20))))",
        "fork(lambda: fork(lambda: (os.setsid(), kept.append(b'x' * (30 << 20)))))",
    ],
    ids=["child", "child of a thread", "grandchild in another session"],
)
@pytest.mark.parametrize("listed", [True, False], ids=["listed by the kernel", "searched for"])
def test_descendants_count(
    start: str,
    listed: bool,
    worker: Obedient,
    family_of: Callable[..., Family],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not listed:
        monkeypatch.setattr(proc, "lists_children", lambda: False)
    family = family_of(worker)
    assert look(family).processes == 1
    worker.do(start)
    # Found after it allocated: what it shares with the worker is all that does not count.
    found = look(family)
    assert found.processes == 1 + len([*proc.descendants(worker.pid)]) >= 2
    assert found.others > 20 * MEGABYTE


@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "hidden"])
def test_a_program_that_it_starts_counts_from_zero(
    hidden: bool, worker: Obedient, family_of: Callable[..., Family]
) -> None:
    """Whatever name it gives itself, also that of the worker."""
    worker.do("kept.append(b'x' * (40 << 20))")
    if hidden:
        worker.do("hide()")
    program = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'fn:worker', 0, 0, 0); "
        "kept = b'x' * (30 << 20); print(1, flush=True); sys.stdin.read()"
    )
    worker.do(
        f"kept.append(subprocess.Popen([sys.executable, '-I', '-c', {program!r}], stdin=-1, stdout=-1)); "
        "kept[1].stdout.read(1)"
    )
    assert 30 < others(family_of(worker)) < 45


@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "hidden"])
def test_forks_do_not_count_again_what_they_share(hidden: bool, family_of: Callable[..., Family]) -> None:
    """Four children of a worker with 60 MB take next to nothing, under whatever name."""
    with obedient() as worker:
        worker.do("kept.append(b'x' * (60 << 20))")
        if hidden:
            worker.do("hide()")
        rename = "ctypes.CDLL(None).prctl(15, b'another', 0, 0, 0)"
        worker.do(f"[fork(lambda: {rename}) for _ in range(4)]")
        family = family_of(worker)
        assert look(family).processes == 5
        assert others(family) < 10


def test_a_fork_that_becomes_another_program_counts_from_zero(
    worker: Obedient, family_of: Callable[..., Family]
) -> None:
    worker.do("kept.append(b'x' * (40 << 20)); come, go = os.pipe(); os.set_inheritable(come, True)")
    program = "import os, sys; os.read(int(sys.argv[1]), 1); kept = b'x' * (30 << 20); os.read(0, 1)"
    worker.do(
        "if os.fork() == 0: os.read(come, 1); "
        f"os.execv(sys.executable, [sys.executable, '-I', '-c', {program!r}, str(come)])"
    )
    family = family_of(worker)
    assert others(family) < 10
    worker.do("os.write(go, b'x')")
    eventually(lambda: others(family) < 20 and proc.read(f"/proc/{_only_child(worker)}/cmdline"), "exec")
    worker.do("os.write(go, b'x')")
    eventually(lambda: others(family) > 30, "all that the program has taken")


def test_one_that_becomes_another_program_while_it_is_looked_at_is_not_counted_with_what_it_shared(
    worker: Obedient, family_of: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.do("kept.append(b'x' * (60 << 20)); hide(); fork()")
    family, child, read = family_of(worker), _only_child(worker), proc.read
    shown = module._owner(os.getpid()) + 1
    begun: list[str] = []

    def read_then_begin(path: str) -> bytes:
        text = read(path)
        if path == f"/proc/{child}/status":
            begun.append(path)
        return text

    monkeypatch.setattr(proc, "read", read_then_begin)
    monkeypatch.setattr(module, "_owner", lambda pid: shown if begun else 0)
    assert others(family) < 10


def _only_child(worker: Obedient) -> int:
    (child,) = proc.children(worker.pid)
    return child


def test_memory_is_counted_exactly_when_it_may_be_too_much(
    worker: Obedient, family_of: Callable[..., Family]
) -> None:
    worker.do("kept.append(b'x' * (60 << 20)); [fork() for _ in range(4)]")
    assert look(family_of(worker)).exact is None
    found = look(family_of(worker, Limits(memory_mb=100)))
    assert found.exact is not None
    assert 60 < found.exact / MEGABYTE < 80


def test_what_forks_write_over_is_found_by_counting_exactly(
    worker: Obedient, family_of: Callable[..., Family]
) -> None:
    """Pages of their own in place of inherited ones: no other number shows them."""
    worker.do("kept.append(bytearray(b'x' * (60 << 20)))")
    worker.do("[fork(lambda: kept.append(kept[0].replace(b'x', b'y')) or kept.pop(0)) for _ in range(2)]")
    found = look(family_of(worker, Limits(memory_mb=100)))
    assert found.exact is not None
    assert found.exact > 100 * MEGABYTE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look at everything")
def test_where_we_may_not_look_there_is_no_exact_number(
    worker: Obedient, family_of: Callable[..., Family]
) -> None:
    worker.do("kept.append(b'x' * (60 << 20)); hide(); fork()")
    found = look(family_of(worker, Limits(memory_mb=10)))
    assert (found.exact, found.blind) == (None, True)


def test_where_it_cannot_be_counted_for_now_there_is_no_exact_number(
    worker: Obedient, family_of: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever used up our descriptors must not end the gateway with that."""
    worker.do("kept.append(b'x' * (60 << 20)); fork()")

    def refuse(path: str) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    read = proc.read_or_raise
    monkeypatch.setattr(
        proc, "read_or_raise", lambda path: refuse(path) if path.endswith("rollup") else read(path)
    )
    found = look(family_of(worker, Limits(memory_mb=10)))
    assert (found.exact, found.blind) == (None, False)


def test_counting_exactly_takes_a_twentieth_of_the_time(
    worker: Obedient, family_of: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.do("kept.append(b'x' * (60 << 20)); [fork() for _ in range(4)]")
    family = family_of(worker, Limits(memory_mb=100))
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    read = proc.read_or_raise

    def slow(path: str) -> bytes:
        now[0] += 0.1 if path.endswith("smaps_rollup") else 0
        return read(path)

    monkeypatch.setattr(proc, "read_or_raise", slow)
    assert look(family).exact is not None  # took half a second
    now[0] += 9.9
    assert look(family).exact is None
    now[0] += 0.2
    assert look(family).exact is not None


def test_who_keeps_the_counting_waiting_is_looked_at_all_the_same(
    worker: Obedient, family_of: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that fork hold the lock that reading their memory needs; in a crowd, for seconds."""
    monkeypatch.setattr(module, "_COUNT_S", 0.01)
    go_on = threading.Event()
    read = proc.read_or_raise

    def stuck(path: str) -> bytes:
        if path.endswith("smaps_rollup"):
            go_on.wait(20)
        return read(path)

    monkeypatch.setattr(proc, "read_or_raise", stuck)
    try:
        worker.do("kept.append(b'x' * (60 << 20)); [fork() for _ in range(4)]")
        family = family_of(worker, Limits(memory_mb=100))
        found = look(family)
        assert (found.exact, found.processes) == (None, 5)
        worker.do("[fork() for _ in range(4)]")
        found = look(family)
        assert (found.exact, found.processes) == (None, 9)
    finally:
        go_on.set()
    eventually(lambda: look(family).exact is not None, "the count")


def test_no_more_processes_are_looked_at_than_there_may_be(
    worker: Obedient, family_of: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PROCESSES", 3)
    worker.do("[fork() for _ in range(10)]")
    assert look(family_of(worker)).processes == 4


def test_those_that_have_ended_are_told_apart_from_those_that_live(
    worker: Obedient, family_of: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who starts programs that leave others behind has nobody who buries these."""
    monkeypatch.setattr(module, "MOST_PROCESSES", 3)
    family = family_of(worker)
    worker.do("fork(); [os._exit(0) for _ in range(10) if os.fork() == 0]")
    found = eventually(lambda: (found := look(family)).ended == 10 and found, "the end of ten")
    assert isinstance(found, Found)
    assert found.processes == 2


def test_processor_time_of_all_is_added_up(worker: Obedient, family_of: Callable[..., Family]) -> None:
    family = family_of(worker)
    before = look(family).cpu
    burn = "[None for _ in iter(lambda: sum(os.times()[:2]) < 0.3, False)]"
    worker.do(f"fork(lambda: {burn})")
    assert look(family).cpu - before >= 200
    worker.do(f"os.waitpid(subprocess.Popen([sys.executable, '-c', {('import os; ' + burn)!r}]).pid, 0)")
    assert look(family).cpu - before >= 400


def test_its_address_space_is_known(worker: Obedient, family_of: Callable[..., Family]) -> None:
    assert look(family_of(worker)).stop > 1 << 40
    worker.do("import resource; resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))")
    assert look(family_of(worker)).stop == 200 << 20


def test_of_one_that_is_gone_nothing_is_found(family_of: Callable[..., Family]) -> None:
    with obedient() as worker:
        family = family_of(worker)
        assert look(family).processes == 1
    assert family.look() is None


def test_a_pace_waits_for_twenty_times_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(0.5)
    assert pace.is_due()
    with pace.kept():
        now[0] += 0.1
    due = []
    for _ in range(3):
        due.append((pace.is_due(), pace.is_due(early=0.5)))
        now[0] += 2.0 if len(due) == 1 else 0.5
    assert due == [(False, False), (False, True), (True, True)]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def size_of(folder: str, *, stop_at: int) -> int:
        calls.append(folder)
        return 0

    monkeypatch.setattr(folders, "size_of", size_of)
    return calls


def test_a_folder_is_measured_twice_a_second_and_when_names_come_or_go(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    folder = Folder(str(tmp_path), MEGABYTE)
    counts = []
    for wait in (0, 0.2, 0.2, 0.2, 0.1):
        now[0] += wait
        assert not folder.is_over()
        counts.append(len(measured))
    assert counts == [1, 1, 1, 2, 2]
    (tmp_path / "new").write_bytes(b"x")
    assert not folder.is_over()
    assert len(measured) == 3


def test_a_folder_over_its_size_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MEGABYTE + 1))
    assert Folder(str(tmp_path), MEGABYTE).is_over()
    assert not Folder(str(tmp_path), 2 * MEGABYTE).is_over()
    assert not Folder(str(tmp_path), 0).is_over()
    assert not Folder(str(tmp_path / "gone"), MEGABYTE).is_over()
