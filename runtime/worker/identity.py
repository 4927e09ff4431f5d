"""What a forked process does before it is a worker: session, user, descriptors, temp folder."""

from __future__ import annotations

import os
import resource
import signal

from runtime import process

NICENESS = 5


def assume(function: str, control: int, log: int, *, temp: str, user: int) -> str:
    """Become the process of one function; the path of its temporary folder.

    Args:
        control: the one descriptor that is kept beside the standard streams.
        log: descriptor that standard output and error shall be.
        user: the unprivileged user (and group) to become; 0: stay who we are.
    """
    os.setsid()
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell has its background jobs ignore it
    process.name_process(f"fn:{function}")
    process.be_nice(NICENESS)
    _only(control, log)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    folder = os.path.join(temp, str(os.getpid()))
    os.mkdir(folder)
    if user:
        os.chown(folder, user, user)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    process.renounce_privileges()
    process.hide_memory()
    os.chdir(folder)
    process.let_children_be_stopped()
    return folder


def _only(control: int, log: int) -> None:
    """Let go of everything else: the template may hold what belongs to another function."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, control)
    os.closerange(control + 1, os.sysconf("SC_OPEN_MAX"))
