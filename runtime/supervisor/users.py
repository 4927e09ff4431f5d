"""The users that functions run as, where root starts the server.

Each server has five hundred of its own: whoever shared one with another server's function could
signal it, and would answer for its files in /dev/shm and its number of processes.
"""

from __future__ import annotations

import socket
import sys

from runtime.errors import StartError

FIRST, LAST = 55_000, 59_999
"""No distribution gives these to anybody."""

COUNT = 500
"""What one server has, and so how many functions it can run."""


def reserve() -> tuple[int, socket.socket | None]:
    """The first user of a block that no other server has, and what holds it while it is open.

    It is held by an abstract socket: its name goes with the last process that has it open, however
    that ends, and it needs no folder. Such names are those of a network namespace: a container has its
    own, and its server takes the first block again. It has its own processes and /dev/shm too; what it
    shares with others then is the kernel's count of a user's processes.

    Raises:
        StartError: other servers have them all.
    """
    if sys.platform != "linux":
        return FIRST, None
    for first in range(FIRST, LAST + 1, COUNT):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            holder.bind(f"\0functions-users-{first}")
        except OSError:
            holder.close()
        else:
            return first, holder
    raise StartError(
        f"all users for functions ({FIRST} to {LAST}) are taken: {(LAST + 1 - FIRST) // COUNT} servers "
        "that root has started run on this machine",
        remedy="stop one of them, start this one as an ordinary user or in a container, or have one "
        "server serve all functions",
    )
