"""What a process asks of the kernel about itself.

Linux is production: there every call does what it says. Elsewhere the calls that have no
counterpart do nothing, and the control connection's end is what stops a process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from typing import Any

LINUX = sys.platform == "linux"

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID
_TO_CHANGE_USER = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7

DUMP = signal.SIGUSR2
"""Has a worker write the stacks of its threads."""

_ASKING_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def _prctl(option: int, argument: int | bytes) -> None:
    if _libc is not None:
        _libc.prctl(option, argument, 0, 0, 0)


def die_with_parent(expected_parent: int | None = None) -> None:
    """Be killed when the parent dies; leave now if it is gone already.

    A change of user clears this setting, so it is asked for after one.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if LINUX and expected_parent is not None and os.getppid() != expected_parent:
        os._exit(1)


def hide_memory() -> None:
    """Keep other processes of the same user away from our memory and environment."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def renounce_privileges() -> None:
    """Let no program that we start gain rights that we do not have (setuid, file capabilities)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def name_process(name: str) -> None:
    """The name that `ps` and `top` show; at most 15 bytes."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def may_change_user() -> bool:
    """Whether root may do here what it takes to run workers as other users, and to clean up after them."""
    if not LINUX:
        return True
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    return effective & _TO_CHANGE_USER == _TO_CHANGE_USER


def become(role: str) -> None:
    """The start of every process that the supervisor spawns.

    It lives and dies with the supervisor, hides its memory, and leaves the signals that ask
    to stop to the supervisor, which ends everybody in order. (Some service managers send
    them to every process at once.)
    """
    for number in _ASKING_TO_STOP:
        signal.signal(number, _pass_over)
    name_process(f"fn-{role}")
    hide_memory()
    die_with_parent()


def _pass_over(number: int, frame: Any) -> None:
    """Unlike SIG_IGN, this does not go over to the programs that a function starts."""


def let_children_be_stopped() -> None:
    """What this process forks (without exec, as multiprocessing does) heeds the signals that we do not."""

    def hold_back() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING_TO_STOP)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING_TO_STOP)

    def heed() -> None:
        for number in _ASKING_TO_STOP:
            signal.signal(number, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold_back, after_in_parent=release, after_in_child=heed)


def raise_file_limit() -> int:
    """Allow ourselves as many descriptors as we may have; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited", and does not mean it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def be_nice(increment: int) -> None:
    """Lower our priority; where that is not allowed, go on."""
    with contextlib.suppress(OSError):
        os.nice(increment)
