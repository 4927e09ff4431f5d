"""The keeper: two processes watch over one another, so that SIGKILL leaves nothing behind.

A process that is killed cannot end its children. So the first process only starts the
supervisor, passes signals on and waits. Whichever of the two dies, the other one is the
subreaper that inherits everything that is left, and ends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NoReturn

from runtime import folders
from runtime.process import adopt_orphans, hide_memory, name_process
from runtime.supervisor import proctable

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_INHERITED_FROM = 3  # descriptors below are the standard streams
_COMMON = "/tmp"

Serve = Callable[[str, int], int]


def keep(serve: Serve, *, for_others: bool, held: int = -1) -> int:
    """Run `serve(temp, keeper)` in a child and end what it leaves; the exit status.

    `temp` is the server's temporary folder, `keeper` a descriptor that becomes readable
    when this process is gone.

    Args:
        for_others: workers are other users, who must reach the temporary folder.
        held: a descriptor that both processes keep open; -1: none.
    """
    name_process("fn-keeper")
    hide_memory()
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # until there is somebody to pass them to
    temp = tempfile.mkdtemp(prefix="functions-", dir=_common_folder() if for_others else None)
    os.chmod(temp, 0o711)  # workers of other users pass through, and list nothing
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        _become_supervisor(serve, temp, reader)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: proctable.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    # The listening socket must not stay open here when the supervisor closes its own.
    _close_all_but(writer, held)
    status = _wait_for(pid)
    proctable.end_descendants()
    folders.remove(temp)
    if status < 0:
        with contextlib.suppress(OSError):
            print(f"the supervisor was ended by {signal.Signals(-status).name}", file=sys.stderr, flush=True)
        return 128 - status
    return status


def _close_all_but(*kept: int) -> None:
    first = _INHERITED_FROM
    for fd in sorted(fd for fd in kept if fd >= first):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _wait_for(pid: int) -> int:
    """The exit status of `pid`; what ends before it is nobody else's to bury.

    As process 1 of a container we inherit what `docker exec` leaves behind.
    """
    while True:
        ended, raw = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(raw)


def _common_folder() -> str:
    """Where temporary files go; not below a folder that only root may enter, as pam_tmpdir makes one."""
    usual = tempfile.gettempdir()
    return usual if _is_open(usual) else _COMMON


def _is_open(folder: str) -> bool:
    parent = os.path.dirname(folder)
    return bool(os.stat(folder).st_mode & stat.S_IXOTH) and (parent == folder or _is_open(parent))


def _become_supervisor(serve: Serve, temp: str, keeper: int) -> NoReturn:
    status = 1
    try:
        os.setsid()  # Ctrl-C in a terminal reaches the keeper alone, which passes it on once
        status = serve(temp, keeper)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
