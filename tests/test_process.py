"""What a process asks of the kernel about itself, seen from a child that asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import process

pytestmark = pytest.mark.skipif(not process.LINUX, reason="what the calls do is Linux's")


def child(code: str) -> str:
    """What a fresh process prints."""
    source = f"import ctypes, os, signal, sys\nfrom runtime import process\n{code}"
    return subprocess.run(
        [sys.executable, "-c", source], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def test_a_process_has_the_name_it_takes() -> None:
    code = "process.name_process('fn:a-very-long-function-name')\nprint(open('/proc/self/comm').read())"
    assert child(code) == "fn:a-very-long-"


def test_the_memory_of_a_process_is_hidden() -> None:
    code = "libc = ctypes.CDLL(None)\nprocess.hide_memory()\nprint(libc.prctl(3, 0, 0, 0, 0))"
    assert child(code) == "0"


def test_privileges_that_were_renounced_do_not_come_back() -> None:
    code = "process.renounce_privileges()\nprint([l for l in open('/proc/self/status') if 'NoNewPrivs' in l])"
    assert "1" in child(code)


def test_an_orphan_is_adopted() -> None:
    code = """
process.adopt_orphans()
reader, writer = os.pipe()
if not os.fork():
    if not os.fork():
        signal.pause()
    os._exit(0)
os.wait()
children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
print(len(children))
for pid in children:
    os.kill(int(pid), signal.SIGKILL)
os.wait()
"""
    assert child(code) == "1"


def test_a_child_dies_with_its_parent() -> None:
    code = """
process.adopt_orphans()
reader, writer = os.pipe()
middle = os.fork()
if not middle:
    parent = os.getpid()
    if not os.fork():
        process.die_with_parent(parent)
        os.write(writer, b"%d" % os.getpid())
        signal.pause()
    os.read(reader, 1)  # until the child has asked for it
    os._exit(0)
os.waitpid(middle, 0)
pid, status = os.wait()
print(os.waitstatus_to_exitcode(status))
"""
    assert child(code) == "-9"


def test_a_child_whose_parent_is_gone_already_leaves() -> None:
    code = """
if not os.fork():
    process.die_with_parent(1)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert child(code) == "1"


def test_whoever_becomes_a_role_leaves_stopping_to_the_supervisor() -> None:
    code = """
process.become("gateway")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    os.kill(os.getpid(), number)
print(open('/proc/self/comm').read())
"""
    assert child(code) == "fn-gateway"


def test_the_programs_that_it_starts_can_be_stopped() -> None:
    code = """
import subprocess
process.become("worker")
started = subprocess.Popen(["sleep", "60"])
started.terminate()
print(started.wait())
"""
    assert child(code) == str(-signal.SIGTERM)


def test_priority_can_be_lowered() -> None:
    assert child("before = os.nice(0)\nprocess.be_nice(3)\nprint(os.nice(0) - before)") == "3"


def test_a_priority_that_cannot_be_changed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(increment: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "nice", refuse)
    process.be_nice(5)


def test_elsewhere_the_calls_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_libc", None)
    monkeypatch.setattr(process, "LINUX", False)
    before = Path("/proc/self/comm").read_text()
    process.name_process("other")
    process.hide_memory()
    process.die_with_parent(1)
    assert Path("/proc/self/comm").read_text() == before
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
