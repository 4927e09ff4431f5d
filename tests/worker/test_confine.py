"""What the kernel enforces on a worker, tried in a process of its own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.worker.confine import MEGABYTE, STACK, data_limit, descriptor_limit, limit_behind

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts data so")
IS_ROOT = os.geteuid() == 0

# A process confines itself, does something, and tells what came of it.
CONFINED = """
import errno, json, mmap, os, resource, signal, subprocess, sys, threading, time
from runtime import process
from runtime.worker import confine

limits = json.loads(sys.argv[1])
confine.apply(confine.Confinement(**limits), folder=os.getcwd(), project="/no/such/project")

def can(action):
    try:
        return action() or "done"
    except OSError as error:
        return errno.errorcode[error.errno]
    except (MemoryError, RuntimeError, ValueError) as error:
        return type(error).__name__
"""


def confined(folder: Path, code: str, **limits: Any) -> Any:
    done = subprocess.run(
        [sys.executable, "-I", "-c", CONFINED + code, json.dumps(limits)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@only_linux
def test_memory_ends_above_the_limit_and_not_below(tmp_path: Path) -> None:
    code = """
room = resource.getrlimit(resource.RLIMIT_DATA)[0] - confine._data_now()
below = can(lambda: len(bytearray(64 << 20)))
above = can(lambda: len(bytearray(room + (1 << 20))))
by_a_child = subprocess.run([sys.executable, "-I", "-c", f"bytearray({room} + (64 << 20))"], stderr=-1).stderr
after = can(lambda: len(bytearray(64 << 20)))
print(json.dumps([below, above, by_a_child.decode(), after]))
"""
    below, above, by_a_child, after = confined(tmp_path, code, memory_mb=64)
    assert below == after == 64 << 20
    assert above == "MemoryError"
    assert "MemoryError" in by_a_child


@only_linux
def test_threads_do_not_use_up_the_memory(tmp_path: Path) -> None:
    """Each counts with its whole stack, of which next to nothing is touched."""
    code = """
over = threading.Event()
threads = [threading.Thread(target=over.wait) for _ in range(60)]
started = can(lambda: [thread.start() for thread in threads] and None)
below = can(lambda: len(bytearray(64 << 20)))
over.set()
print(json.dumps([started, below]))
"""
    assert confined(tmp_path, code, memory_mb=64, threads=20) == ["done", 64 << 20]


def test_a_stack_is_as_large_as_is_counted(tmp_path: Path) -> None:
    assert confined(tmp_path, "print(threading.stack_size())") == STACK


@only_linux
def test_memory_that_is_there_already_does_not_count() -> None:
    assert data_limit(100, 8, 50 * MEGABYTE) - data_limit(100, 8, 0) == 50 * MEGABYTE
    assert data_limit(200, 8, 0) - data_limit(100, 8, 0) == 125 * MEGABYTE
    assert data_limit(100, 9, 0) - data_limit(100, 8, 0) == STACK


def test_a_file_ends_at_the_limit_of_the_folder(tmp_path: Path) -> None:
    code = """
def write(size):
    with open("file", "wb") as file:
        file.truncate(size)
print(json.dumps([can(lambda: write(2 << 20)), can(lambda: write((2 << 20) + 1))]))
"""
    assert confined(tmp_path, code, tmp_mb=2) == ["done", "EFBIG"]


def test_descriptors_end_and_the_limit_cannot_be_raised(tmp_path: Path) -> None:
    code = """
pipes = []
def open_many():
    while True:
        pipes.append(os.pipe())
answer = can(open_many)
for pipe in pipes:
    os.close(pipe[0]), os.close(pipe[1])
most = resource.getrlimit(resource.RLIMIT_NOFILE)
os.geteuid() or os.setresuid(54321, 54321, 54321)
raised = can(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most[1] + 1,) * 2))
print(json.dumps([answer, 2 * len(pipes), most, raised]))
"""
    answer, opened, most, raised = confined(tmp_path, code, concurrency=100)
    assert answer == "EMFILE"
    assert most == [1024, 1024]
    assert 1000 < opened < 1024
    assert raised == "ValueError"


@pytest.mark.parametrize(("concurrency", "descriptors"), [(1, 1024), (100, 1024), (1000, 4000)])
def test_descriptors_grow_with_concurrency(concurrency: int, descriptors: int) -> None:
    assert descriptor_limit(concurrency) == descriptors


@pytest.mark.skipif(not IS_ROOT, reason="only root can become a user that nobody else is")
def test_a_fork_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    code = """
os.setresuid(54325, 54325, 54325)
children = []
def fork_many():
    while True:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
answer = can(fork_many)
for pid in children:
    os.kill(pid, signal.SIGKILL), os.waitpid(pid, 0)
print(json.dumps([answer, len(children)]))
"""
    assert confined(tmp_path, code, processes=20) == ["EAGAIN", 19]


@only_linux
def test_a_daemon_stays_a_child(tmp_path: Path) -> None:
    """Two forks and a session of its own do not take it out of the worker's family."""
    code = """
reader, writer = os.pipe()
worker = os.getpid()
if os.fork() == 0:
    os.setsid()
    middle = os.getpid()
    if os.fork() == 0:
        while os.getppid() == middle:
            time.sleep(0.001)
        os.write(writer, str(os.getppid()).encode())
        os._exit(0)
    os._exit(0)
print(json.dumps(int(os.read(reader, 20)) == worker))
"""
    assert confined(tmp_path, code) is True


def test_zero_leaves_a_limit_as_it_was(tmp_path: Path) -> None:
    names = ["RLIMIT_DATA", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_NPROC"]
    code = f"print(json.dumps([resource.getrlimit(getattr(resource, name)) for name in {names}]))"
    now = subprocess.run(
        [sys.executable, "-I", "-c", f"import json, resource\n{code}"], capture_output=True, check=True
    )
    assert confined(tmp_path, code) == json.loads(now.stdout)


def test_nothing_dumps_core(tmp_path: Path) -> None:
    assert confined(tmp_path, "print(json.dumps(resource.getrlimit(resource.RLIMIT_CORE)))") == [0, 0]


@only_linux
def test_the_template_and_its_forks_are_the_first_to_end_when_memory_runs_out() -> None:
    code = """
import os
from runtime import process
from runtime.worker import confine
confine.go_first()
process.become("template")
if os.fork() == 0:
    print(open("/proc/self/oom_score_adj").read().strip(), flush=True)
    os._exit(0)
os.wait()
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "500\n"


def test_without_a_sandbox_the_disk_is_open(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("read")
    code = f"print(json.dumps(open({str(tmp_path / 'there')!r}).read()))"
    assert confined(tmp_path, code, sandbox="off") == "read"


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (MemoryError(), "memory_mb"),
        (OSError(errno.ENOMEM, "no memory"), "memory_mb"),
        (OSError(errno.EFBIG, "too large"), "tmp_mb"),
    ],
)
def test_what_fails_at_a_limit_is_told_by_its_key(error: Exception, key: str) -> None:
    limit = limit_behind(error, memory_mb=5, tmp_mb=7)
    assert limit is not None
    assert f"({key})" in limit.message
    assert limit_behind(error, memory_mb=0, tmp_mb=0) is None


@pytest.mark.parametrize("error", [ValueError(), OSError(errno.ENOENT, "no file"), OSError("odd")])
def test_what_fails_otherwise_is_no_limit(error: Exception) -> None:
    assert limit_behind(error, memory_mb=5, tmp_mb=7) is None
