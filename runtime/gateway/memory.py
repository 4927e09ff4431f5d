"""How much memory a worker's own process has taken, seen from outside.

What counts is what the kernel gave to this worker alone: anonymous memory, less what it
inherited from the template, and memory that it maps for sharing (`mmap.mmap(-1, …)`). The
file that tells this, /proc/PID/status, may be read by everybody, whoever the worker runs as.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from runtime import proc

_LONGEST = 4096


class Status(NamedTuple):
    """What /proc/PID/status says. Bytes.

    Attributes:
        user: who it runs as; 0: a worker that has not become its user yet.
        anonymous: heaps and stacks in memory, also those still shared with who forked it.
        shared: memory mapped together with others.
        data: private writable address space, used or not.
    """

    user: int
    anonymous: int
    shared: int
    data: int = 0


def parse_status(text: bytes) -> Status:
    """Read what matters of /proc/PID/status. A process that has ended takes nothing."""
    at = text.find(b"\nUid:\t")
    return Status(
        user=int(text[at + 6 : text.index(b"\t", at + 6)]) if at >= 0 else 0,
        anonymous=proc.kilobytes(text, b"\nRssAnon:"),
        shared=proc.kilobytes(text, b"\nRssShmem:"),
        data=proc.kilobytes(text, b"\nVmData:"),
    )


class Meter:
    """Measures one process, several times a second.

    Its open file is of this process alone, also when its number is given anew.

    Args:
        pid: the worker, just forked: what it has now is what it inherited.

    Attributes:
        inherited: bytes of anonymous memory that it began with. Too much is subtracted, by so
            much at most, as it comes to have pages of its own in place of those that it shared.
    """

    def __init__(self, pid: int) -> None:
        self._file = -1
        self.inherited = 0
        with contextlib.suppress(OSError):
            self._file = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
            self.inherited = self._read().anonymous

    def sample(self) -> Status | None:
        """What it has taken for itself; None: it is gone, or nothing can be seen."""
        try:
            status = self._read()
        except OSError:
            return None
        return status._replace(anonymous=max(status.anonymous - self.inherited, 0))

    def _read(self) -> Status:
        return parse_status(os.pread(self._file, _LONGEST, 0))

    def close(self) -> None:
        """Look no more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
