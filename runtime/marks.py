"""Which requests a worker has begun, in memory that it shares with the gateway.

A worker marks a connection just before it calls the handler. The mark outlives the
worker's death, whatever it was doing, and costs no system call: so the gateway knows for
certain whether a request may be given to another worker. The `Accepted` frame says the
same to a gateway that waits for it, and may come a moment later.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile


class Marks:
    """One byte per connection.

    Args:
        fd: a file of `size` bytes; stays open.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._bytes = mmap.mmap(fd, size)

    def set(self, slot: int) -> None:
        """The request on this connection is begun."""
        self._bytes[slot] = 1

    def clear(self, slot: int) -> None:
        """A new request is about to be sent on this connection."""
        self._bytes[slot] = 0

    def is_set(self, slot: int) -> bool:
        """Whether the last request on this connection was begun."""
        return self._bytes[slot] == 1

    def close(self) -> None:
        """Let go of the memory."""
        self._bytes.close()


def shared_file(data: bytes, *, constant: bool = False) -> int:
    """An unnamed file with this content that other processes can be handed.

    Nobody can change its size: who shrank it would kill every process that has it mapped.

    Args:
        constant: nobody can change its content either.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("functions", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        # Nothing can be sealed here (macOS): a function can harm its server, and its own next
        # workers, by writing to this file. That is development, where it is its author's server.
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    if hasattr(os, "memfd_create"):
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_WRITE if constant else seals)
    return fd
