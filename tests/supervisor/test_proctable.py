"""Who descends from whom, as /proc tells it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from runtime.supervisor import proctable
from tests.running import eventually

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")

ODD_NAME = ") R 1 1 (\n"  # looks like the fields that come after it


@contextmanager
def sleeper(**options: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def test_a_process_is_read_as_the_kernel_shows_it() -> None:
    me = proctable.read(os.getpid())
    assert me == (os.getpid(), me.state if me else "", os.getppid(), os.getsid(0))


def test_a_process_that_does_not_exist_is_none() -> None:
    with sleeper() as process:
        pass
    assert proctable.read(process.pid) is None
    proctable.kill(process.pid)  # and nothing to fear


def test_a_name_that_looks_like_fields_misleads_nobody() -> None:
    code = f"from runtime.process import name_process; name_process({ODD_NAME!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        entry = proctable.read(process.pid)
        assert entry is not None
        assert (entry.parent, entry.session) == (os.getpid(), os.getsid(0))
        assert psutil.Process(process.pid).name() == ODD_NAME
        process.communicate(b"\n")


def test_children_are_ours_alone_and_the_dead_do_not_count() -> None:
    with sleeper() as process:
        assert process.pid in proctable.children_of(os.getpid())
        proctable.kill(process.pid)
        eventually(lambda: (entry := proctable.read(process.pid)) and entry.state == "Z", "its end")
        assert process.pid not in proctable.children_of(os.getpid())


def test_the_members_of_a_session_are_found() -> None:
    with sleeper(start_new_session=True) as leader, sleeper() as other:
        members = proctable.of_sessions([leader.pid])
        assert leader.pid in members
        assert other.pid not in members
        assert proctable.of_sessions([]) == []


def test_a_process_is_sent_the_signal_that_was_asked_for() -> None:
    with sleeper() as process:
        proctable.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_descendants_are_ended_however_they_have_run_away() -> None:
    """Run apart, because it makes its process the parent of everything below."""
    code = """
import subprocess
from runtime import process
from runtime.supervisor import proctable

process.adopt_orphans()
shell = "sleep 600 & setsid sh -c 'sleep 600 & echo $!; sleep 600' & sleep 0.01"
tree = subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, start_new_session=True)
print(tree.stdout.readline().decode().strip(), flush=True)
proctable.end_descendants()
print(len(proctable.children_of(__import__("os").getpid())))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    runaway, left = map(int, done.stdout.split())
    assert left == 0
    assert not psutil.pid_exists(runaway)
