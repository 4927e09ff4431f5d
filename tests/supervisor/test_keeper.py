"""Two processes that watch over one another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.running import eventually

# A server that is nothing but a child: it says who it is and waits for the keeper's end.
SERVE = """
import os, select, signal, subprocess, sys
from runtime.supervisor.keeper import keep

def serve(temp, keeper):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print(os.getpid(), child.pid, temp, flush=True)
    select.select([keeper], [], [])
    return 7

sys.exit(keep(serve, for_others={for_others}))
"""


def started(tmp_path: Path, for_others: bool = False) -> tuple[subprocess.Popen[str], int, int, Path]:
    """The keeper, the pids of its server and of a runaway, and the temporary folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE.format(for_others=for_others)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    server, child, temp = process.stdout.readline().split()
    return process, int(server), int(child), Path(temp)


def end(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    status = process.wait(10)
    process.stdout.close()
    return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on_and_what_is_left_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    process, server, child, temp = started(tmp_path)
    assert temp.parent == tmp_path
    assert temp.stat().st_mode & 0o777 == 0o711
    process.send_signal(number)
    # This server ends by the signal itself, as a supervisor never would.
    assert end(process) == 128 + number
    assert not psutil.pid_exists(server)
    assert not psutil.pid_exists(child)
    assert not temp.exists()


def test_the_server_learns_that_the_keeper_was_killed(tmp_path: Path) -> None:
    process, server, child, _ = started(tmp_path)
    process.kill()
    assert end(process) == -signal.SIGKILL
    eventually(lambda: not psutil.pid_exists(server), "the end of the server")
    os.kill(child, signal.SIGKILL)  # this server, unlike the supervisor, leaves it


def test_workers_of_other_users_are_given_a_folder_that_they_can_reach(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    process, *_, temp = started(private, for_others=True)
    process.terminate()
    end(process)
    assert temp.parent == Path("/tmp")
    assert not temp.exists()


def test_orphans_that_nobody_else_buries_are_reaped(tmp_path: Path) -> None:
    """As process 1 of a container it inherits what `docker exec` leaves behind."""
    begun = """
import os, sys
stray = os.fork()  # a child that the keeper does not know
if stray == 0:
    sys.stdin.read()
    os._exit(0)
print(stray, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", begun + SERVE.format(for_others=False)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    stray = int(process.stdout.readline())
    process.stdout.readline()
    assert psutil.pid_exists(stray)
    process.stdin.close()
    eventually(lambda: not psutil.pid_exists(stray), "the burial of the stray")
    process.terminate()
    assert end(process) == 128 + signal.SIGTERM
