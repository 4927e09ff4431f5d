"""What a forked process is before it becomes a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

IS_ROOT = os.geteuid() == 0
USER = 55_123

# The child assumes its identity and tells what it sees of itself; the parent passes it on.
ASSUME = """
import ctypes, json, os, resource, socket, subprocess, sys
from runtime import process
from runtime.worker import identity

temp, user = sys.argv[1], int(sys.argv[2])
process.become("template")
ours, theirs = socket.socketpair()
reader, writer = os.pipe()
of_another_function = socket.socketpair()

def facts(folder):
    lines = open("/proc/self/status").read().splitlines()
    status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
    return {
        "folder": folder,
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "session": os.getsid(0),
        "name": status["Name"],
        "nice": os.nice(0),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "umask": os.umask(0),
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": os.getgroups(),
        "no_new_privileges": status["NoNewPrivs"],
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
        "survived": [os.kill(os.getpid(), number) for number in (1, 2, 15)],
        "ignored_by_programs": programs_ignore(),
        "descriptors": [fd for fd in range(256) if is_open(fd)],
        "control": theirs.fileno(),
        "input": os.read(0, 1).decode(),
        "same_log": os.fstat(1)[1:3] == os.fstat(2)[1:3],
    }

def programs_ignore():
    status = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True).stdout
    mask = int(status.split("SigIgn:")[1].split()[0], 16)
    return [number for number in range(1, 32) if mask & 1 << number - 1]

def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

if os.fork() == 0:
    try:
        name = "a-function-of-a-very-long-name"
        folder = identity.assume(name, theirs.fileno(), writer, temp=temp, user=user)
        open("written", "w").close()
        print("to the log", flush=True)
        theirs.sendall(json.dumps(facts(folder)).encode())
    finally:
        os._exit(0)
theirs.close()
os.close(writer)
answer = b"".join(iter(lambda: ours.recv(65536), b""))
print(json.dumps([json.loads(answer), os.read(reader, 100).decode(), os.getpid(), os.nice(0)]))
"""


@pytest.fixture
def temp() -> Iterator[Path]:
    """A folder that other users can reach, which `tmp_path` is not."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def assume(temp: Path, user: int) -> tuple[dict[str, Any], str, int, int]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", ASSUME, str(temp), str(user)], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    facts, log, parent, nice = json.loads(done.stdout)
    return facts, log, parent, nice


@pytest.mark.parametrize(
    "user",
    [
        0,
        pytest.param(USER, marks=pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")),
    ],
    ids=["same user", "other user"],
)
def test_a_worker_is_alone_in_its_session_and_has_nothing_it_does_not_need(temp: Path, user: int) -> None:
    facts, log, parent, nice = assume(temp, user)
    assert facts["session"] == facts["pid"] != parent
    assert facts["name"] == "fn:a-function-o"
    assert facts["nice"] == min(nice + 5, 19)
    assert facts["core"] == [0, 0]
    assert facts["umask"] == 0o077
    assert facts["no_new_privileges"] == "1"
    assert facts["dumpable"] == 0
    assert facts["survived"] == [None] * 3
    assert facts["ignored_by_programs"] == []
    assert facts["descriptors"] == [0, 1, 2, facts["control"]]
    assert facts["input"] == ""
    assert facts["same_log"]
    assert log == "to the log\n"


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
def test_started_as_root_it_is_another_user_for_good(temp: Path) -> None:
    facts, *_ = assume(temp, USER)
    assert facts["uids"] == facts["gids"] == [USER] * 3
    assert facts["groups"] == []


def test_its_folder_is_its_own(temp: Path) -> None:
    facts, *_ = assume(temp, 0)
    folder = Path(facts["folder"])
    assert folder == temp / str(facts["pid"])
    assert facts["cwd"] == str(folder)
    assert (folder / "written").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.geteuid()
