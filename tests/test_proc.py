"""What /proc says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from runtime import proc
from tests.running import eventually

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")

ODD_NAME = ") R 1 1 (\n"  # looks like the fields that come after it
GONE = 2**22 + 1  # a number that no process can have


def test_a_process_is_read_as_the_kernel_shows_it() -> None:
    me = proc.stat(os.getpid())
    assert me is not None
    assert (me.pid, me.parent, me.session) == (os.getpid(), os.getppid(), os.getsid(0))
    assert me.started / os.sysconf("SC_CLK_TCK") == pytest.approx(
        psutil.Process().create_time() - psutil.boot_time(), abs=2
    )
    assert me.cpu == pytest.approx(1000 * sum(os.times()[:4]), abs=100)
    assert me.stack > 0


def test_what_is_gone_is_nothing() -> None:
    assert proc.stat(GONE) is None
    assert proc.read(f"/proc/{GONE}/status") == b""
    assert proc.resident(GONE) == 0
    assert proc.cpu_of(GONE, GONE) is None
    assert proc.data_limit(GONE) == proc.UNLIMITED
    assert proc.children(GONE) == [*proc.descendants(GONE)] == []
    with pytest.raises(FileNotFoundError):
        proc.read_or_raise(f"/proc/{GONE}/status")


def test_a_name_that_looks_like_fields_misleads_nobody() -> None:
    code = f"from runtime.process import name_process; name_process({ODD_NAME!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stat = proc.stat(process.pid)
        assert stat is not None
        assert (stat.parent, stat.session) == (os.getpid(), os.getsid(0))
        assert psutil.Process(process.pid).name() == ODD_NAME
        process.communicate(b"\n")


def test_forks_have_their_parents_stack_and_programs_one_of_their_own() -> None:
    code = (
        "import os\npid = os.fork()\nprint(os.getpid() if pid else 0, pid, flush=True) if pid else 0\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        parent, child = map(proc.stat, map(int, process.stdout.readline().split()))
        me = proc.stat(os.getpid())
        assert parent is not None
        assert child is not None
        assert me is not None
        assert parent.stack == child.stack != me.stack
        process.communicate(b"\n\n")


def test_memory_is_what_the_kernel_says() -> None:
    assert proc.resident(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)


def test_a_line_in_kilobytes_is_read() -> None:
    text = b"Name:\tx\nRssAnon:\t   21380 kB\nRssShmem:\t       4 kB\n"
    assert proc.kilobytes(text, b"\nRssAnon:") == 21380 * 1024
    assert proc.kilobytes(text, b"\nVmData:") == 0


def test_the_clock_of_a_thread_is_read() -> None:
    before, mine = proc.cpu_of(os.getpid(), threading.get_native_id()), time.thread_time_ns()
    while time.thread_time_ns() - mine < 20_000_000:
        pass
    after = proc.cpu_of(os.getpid(), threading.get_native_id())
    assert before is not None
    assert after is not None
    assert 15_000_000 < after - before < 200_000_000


@pytest.mark.parametrize("listed", [True, False], ids=["listed by the kernel", "searched for"])
def test_children_and_theirs_are_found(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not listed:
        monkeypatch.setattr(proc, "lists_children", lambda: False)
    shell = "setsid sh -c 'sleep 600 & echo $!; sleep 600' & echo; wait"
    with subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, start_new_session=True) as tree:
        assert tree.stdout is not None
        grandchild = next(int(line) for line in iter(tree.stdout.readline, b"") if line.strip())
        try:
            assert tree.pid in proc.children(os.getpid())
            assert grandchild not in proc.children(tree.pid)
            found = eventually(lambda: len(all := [*proc.descendants(tree.pid)]) == 3 and all, "all of them")
            assert found
            assert grandchild in found[1:]
        finally:
            for pid in (*proc.descendants(tree.pid), tree.pid):
                os.kill(pid, 9)


def test_a_limit_of_address_space_is_read() -> None:
    limit = "resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, -1))"
    code = f"import resource; {limit}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert proc.data_limit(process.pid) == 200 << 20
        process.communicate(b"\n")


def test_one_whose_first_thread_has_ended_lives_while_it_has_others() -> None:
    """Its state is that of its first thread: else a crowd could go uncounted."""
    gone = proc.Stat(pid=7, state="Z", parent=1, session=7, cpu=0, started=1, stack=0, threads=1)
    assert gone.ended
    assert not gone._replace(threads=2).ended
    assert not gone._replace(state="S").ended
