"""Memory that processes share: unnamed files that are handed from one to another."""

from __future__ import annotations

import fcntl
import os
import tempfile


def shared_file(data: bytes = b"", *, size: int = 0, constant: bool = False) -> int:
    """An unnamed file with this content that other processes can be handed.

    Nobody can change its size: who shrank it would kill every process that has it mapped.

    Args:
        size: bytes; after `data` follow zeros, which take no memory until they are written.
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
    if size > len(data):
        os.ftruncate(fd, size)
    if hasattr(os, "memfd_create"):
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_WRITE if constant else seals)
    return fd
