"""Files in memory: what a worker writes to them, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import proc
from runtime.gateway import memoryfiles
from runtime.worker import visibility
from tests.gateway.obedient import Obedient, obedient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/shm elsewhere")

MEGABYTE = 1 << 20
PLENTY = 1 << 40
USER = 54_322  # no worker's uid, and nobody's on a usual machine
IS_ROOT = os.geteuid() == 0
MY_USER = USER if IS_ROOT else os.geteuid()


def become() -> None:
    if IS_ROOT:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)


@pytest.fixture
def worker() -> Iterator[Obedient]:
    if IS_ROOT:
        visibility.show_interpreter()
    with obedient(become=become) as process:
        process.do("import secrets, shutil")
        yield process
        process.do("[shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name) for name in kept "
                   "if isinstance(name, str) and os.path.exists(name)]")  # fmt: skip


def size(worker: Obedient, *more: int, stop_at: int = PLENTY, sharers: int = 1) -> float:
    return memoryfiles.size([worker.pid, *more], MY_USER, stop_at, sharers) / MEGABYTE


def name_in_shared(worker: Obedient) -> str:
    """The name of nothing yet, which is removed at the end."""
    worker.do("kept.append('/dev/shm/tests-' + secrets.token_hex(8))")
    return worker.ask("kept[-1]")


def test_a_file_without_a_name_counts_once_and_without_its_holes(worker: Obedient) -> None:
    before = size(worker)
    worker.do("fd = os.memfd_create('x'); os.write(fd, bytes(20 << 20)); os.ftruncate(fd, 1 << 33)")
    assert 20 <= size(worker) - before < 21
    worker.do("os.dup(fd); fork()")
    (child,) = proc.children(worker.pid)
    assert 20 <= size(worker, child) - before < 21


def test_a_file_in_shared_memory_counts_while_it_is_open_under_its_name_and_without_it(
    worker: Obedient,
) -> None:
    before = size(worker)
    name_in_shared(worker)
    worker.do("file = open(kept[-1], 'wb', 0); file.write(bytes(20 << 20))")
    assert 20 <= size(worker) - before < 21
    worker.do("os.unlink(kept[-1])")
    assert 20 <= size(worker) - before < 21
    worker.do("file.close()")
    assert size(worker) == before


@pytest.mark.skipif(not IS_ROOT, reason="only root gives workers users of their own")
def test_of_a_user_of_its_own_closed_files_count_and_those_in_folders(worker: Obedient) -> None:
    name_in_shared(worker)
    worker.do("open(kept[-1], 'wb').write(bytes(10 << 20)); os.link(kept[-1], kept[-1] + 'b')")
    assert 10 <= size(worker) < 11
    worker.do("os.unlink(kept[-1] + 'b')")
    name_in_shared(worker)
    worker.do("os.mkdir(kept[-1]); file = open(kept[-1] + '/file', 'wb', 0); file.write(bytes(10 << 20))")
    assert 20 <= size(worker) < 21


@pytest.mark.skipif(not IS_ROOT, reason="only root gives workers users of their own")
def test_what_workers_of_one_user_share_counts_in_equal_shares(worker: Obedient) -> None:
    """Else three workers could have no more than a third of the limit each, all being over it at once."""
    name_in_shared(worker)
    worker.do("open(kept[-1], 'wb').write(bytes(12 << 20))")
    worker.do("os.write(os.memfd_create('x'), bytes(2 << 20))")
    assert 14 <= size(worker) < 15
    assert 6 <= size(worker, sharers=3) < 7
    assert 2 <= size(worker, sharers=3, stop_at=2 * MEGABYTE) < 7


@pytest.mark.skipif(not IS_ROOT, reason="only root gives workers users of their own")
def test_files_of_others_do_not_count(worker: Obedient) -> None:
    """The server's own files, which each worker has open."""
    with obedient() as server:
        server.do("fd = os.memfd_create('x'); os.write(fd, bytes(20 << 20))")
        assert size(worker, server.pid) < 1


@pytest.mark.skipif(not IS_ROOT, reason="only root gives workers users of their own")
def test_what_will_be_removed_does_not_count_against_the_next_worker(
    worker: Obedient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_in_shared(worker)
    worker.do("open(kept[-1], 'wb').write(bytes(10 << 20)); os.write(os.memfd_create('x'), bytes(2 << 20))")
    memoryfiles.doom(USER)
    assert 2 <= size(worker) < 3
    memoryfiles.remove(USER)
    worker.do("open(kept[-1], 'wb').write(bytes(10 << 20))")
    assert 12 <= size(worker) < 13
    monkeypatch.setattr(memoryfiles, "_DOOMED_S", 0.0)  # its removal does not end
    memoryfiles.doom(USER)
    assert 12 <= size(worker) < 13


def test_it_stops_once_it_is_enough(worker: Obedient) -> None:
    worker.do("[os.write(os.memfd_create('x'), bytes(MB)) for MB in [1 << 20] for _ in range(20)]")
    assert 5 <= size(worker, stop_at=5 * MEGABYTE) < 7


def test_of_one_that_is_gone_nothing_is_open() -> None:
    with obedient(become=become) as worker:
        pass
    assert size(worker) * MEGABYTE == memoryfiles.size([], MY_USER, PLENTY)


@pytest.mark.skipif(not IS_ROOT, reason="only root gives workers users of their own")
def test_what_a_user_leaves_is_removed_and_nothing_of_others(worker: Obedient) -> None:
    mine = Path(f"/dev/shm/tests-{os.getpid()}")
    mine.touch()
    try:
        file, folder = name_in_shared(worker), name_in_shared(worker)
        worker.do("open(kept[0], 'wb').close(); os.makedirs(kept[1] + '/deeper')")
        worker.do(f"os.symlink({str(mine)!r}, kept[1] + '/link')")
        memoryfiles.remove(USER)
        assert not os.path.exists(file)
        assert not os.path.exists(folder)
        assert mine.exists()
    finally:
        with contextlib.suppress(FileNotFoundError):
            mine.unlink()
