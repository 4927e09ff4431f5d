"""What the operating system enforces on a worker, whatever its code does.

Applied before any code of the function runs, and inherited by every program that it
starts. None of it can be taken back from inside. These are the hard stops behind the
limits that the gateway watches: they hold between two of its looks, and when it is late.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import threading

import msgspec

from runtime import proc, process
from runtime.errors import WorkerLimit, memory_exceeded, storage_exceeded
from runtime.worker import landlock

MEGABYTE = 1 << 20
STACK = 8 * MEGABYTE
"""Address space of one thread's stack. All of it counts as data, though little is ever touched."""

_FIRST_TO_END = 500
_DATA_MARGIN = 1.25
_FEWEST_DESCRIPTORS = 1024
_DESCRIPTORS_PER_REQUEST = 4
_THREADS_OF_TOOLKIT = 44  # anyio's default limiter, which runs `def` routes, and libuv's resolvers
_PER_CORE = STACK + 32 * MEGABYTE  # a thread of a numeric library and its buffer, as OpenBLAS takes it
_UNLIMITED = resource.RLIM_INFINITY


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker may take. 0 leaves a limit off.

    Attributes:
        memory_mb: private memory; the hard stop lies above it, see `data_limit`.
        tmp_mb: the largest file that may be written.
        concurrency: requests at one time; descriptors are counted from it.
        threads: calls of a plain `def` handler at one time; their stacks are no memory in use.
        processes: processes and threads of the worker's user, all its workers together. Only
            for a user that nobody else is: it counts all that this user runs.
        sandbox: "off", or "landlock": see `runtime.worker.landlock`.
    """

    memory_mb: int = 0
    tmp_mb: int = 0
    concurrency: int = 0
    threads: int = 0
    processes: int = 0
    sandbox: str = "off"


def apply(limits: Confinement, *, folder: str, project: str) -> None:
    """Confine this process, for good.

    Called while there is one thread, after the environment of the function is set.

    Args:
        folder: the worker's own, where it may write.
        project: what a sandbox hides.

    Raises:
        StartError: the sandbox that was asked for cannot be had here.
    """
    process.adopt_orphans()  # so that a daemon stays ours: it is counted and ended with us
    threading.stack_size(STACK)  # whatever `ulimit -s` said where the server was started
    _cap(resource.RLIMIT_CORE, 0)
    if limits.concurrency:
        _cap(resource.RLIMIT_NOFILE, descriptor_limit(limits.concurrency))
    if limits.tmp_mb:
        _cap(resource.RLIMIT_FSIZE, limits.tmp_mb * MEGABYTE)
    if limits.processes:
        _cap(resource.RLIMIT_NPROC, limits.processes)
    if limits.memory_mb and process.LINUX:  # elsewhere it does not count what mmap gives
        _cap(resource.RLIMIT_DATA, data_limit(limits.memory_mb, limits.threads, _data_now()))
    if limits.sandbox == "landlock":
        landlock.confine(writable=folder, hidden=project)


def limit_behind(error: BaseException, *, memory_mb: int, tmp_mb: int) -> WorkerLimit | None:
    """The limit that made something fail; None: it was something else."""
    number = error.errno if isinstance(error, OSError) else None
    if memory_mb and (isinstance(error, MemoryError) or number == errno.ENOMEM):
        return memory_exceeded(memory_mb)
    if tmp_mb and number == errno.EFBIG:
        return storage_exceeded(tmp_mb)
    return None


def go_first() -> None:
    """When the machine runs out of memory, end us rather than the gateway, the engine or a database.

    For the template: what it forks inherits this. Raising it takes no privilege, but a process
    that hides its memory cannot open the file: so it comes before `process.become`.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(_FIRST_TO_END))


def descriptor_limit(concurrency: int) -> int:
    """How many descriptors a worker may have open: several for each request, and never few."""
    return max(_FEWEST_DESCRIPTORS, _DESCRIPTORS_PER_REQUEST * concurrency)


def data_limit(memory_mb: int, threads: int, now: int) -> int:
    """Bytes of private writable address space, used or not.

    A quarter above `memory_mb`, because address space is taken before memory is, a stack for
    each thread that the function and the toolkit start, and what a numeric library takes for
    each core when it is imported.

    Args:
        now: what the process has already.
    """
    untouched = (threads + _THREADS_OF_TOOLKIT) * STACK + (os.cpu_count() or 1) * _PER_CORE
    return now + int(memory_mb * MEGABYTE * _DATA_MARGIN) + untouched


def _cap(which: int, most: int) -> None:
    """Set both the limit and what it may be raised to, as far as we are allowed to go."""
    _, hard = resource.getrlimit(which)
    if hard != _UNLIMITED:
        most = min(most, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses some
        resource.setrlimit(which, (most, most))


def _data_now() -> int:
    return proc.kilobytes(proc.read_or_raise("/proc/self/status"), b"\nVmData:")
