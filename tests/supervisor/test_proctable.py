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

from runtime import proc
from runtime.supervisor import proctable
from tests.running import eventually

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")


@contextmanager
def sleeper(**options: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def test_a_process_that_does_not_exist_is_nothing_to_fear() -> None:
    with sleeper() as process:
        pass
    proctable.kill(process.pid)


def test_strays_are_looked_for_without_looking_at_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker's end is followed by a look: with hundreds of processes on the machine that adds up."""
    if not proc.lists_children():
        pytest.skip("this kernel does not say who the children are")
    with sleeper() as known:
        children = set(proctable.children_of(os.getpid()))
        assert known.pid in children
        monkeypatch.setattr(proc, "pids", lambda: pytest.fail("all of /proc was looked at"))
        proctable.end_strays(os.getpid(), children)
        assert known.poll() is None


def test_a_stray_is_found_and_ended() -> None:
    known = set(proctable.children_of(os.getpid()))
    with sleeper(start_new_session=True) as stray:
        assert proctable.strays(os.getpid(), known) == {stray.pid}
        proctable.end_strays(os.getpid(), known)
        assert stray.wait(10) == -signal.SIGKILL


def test_children_are_ours_alone_and_the_dead_do_not_count() -> None:
    with sleeper() as process:
        assert process.pid in proctable.children_of(os.getpid())
        proctable.kill(process.pid)
        eventually(lambda: (found := proc.stat(process.pid)) and found.state == "Z", "its end")
        assert process.pid not in proctable.children_of(os.getpid())


def test_the_members_of_a_session_are_family() -> None:
    with sleeper(start_new_session=True) as leader, sleeper() as other:
        family = proctable.families_of([leader.pid])
        assert leader.pid in family
        assert other.pid not in family
        assert proctable.families_of([]) == set()


def test_descendants_are_family_whatever_session_they_went_to() -> None:
    shell = "setsid sh -c 'sleep 600 & echo $!; sleep 600' & wait"
    with subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, start_new_session=True) as tree:
        assert tree.stdout is not None
        grandchild = int(tree.stdout.readline())
        family = proctable.families_of([tree.pid])
        assert {tree.pid, grandchild} <= family
        proctable.end(lambda: proctable.families_of([tree.pid]) & family)
    eventually(lambda: not psutil.pid_exists(grandchild), "its end")


def test_what_multiplies_without_end_is_ended() -> None:
    """Each process forks at once: whoever kills one after the other is too late for the next."""
    bomb = "import os\nprint(flush=True)\nwhile True:\n    if os.fork(): os._exit(0)"
    code = f"""
import os, subprocess, sys
from runtime import process
from runtime.supervisor import proctable

process.adopt_orphans()
for _ in range(5):
    bomb = subprocess.Popen([sys.executable, "-c", {bomb!r}], stdout=subprocess.PIPE, start_new_session=True)
    bomb.stdout.readline()
proctable.end(lambda: proctable.families_of(proctable.children_of(os.getpid())))
print(len(proctable.children_of(os.getpid())))
proctable.end_descendants()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0\n"


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
