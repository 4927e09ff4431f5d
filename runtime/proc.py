"""Reading /proc. Of what is gone, and where there is none, there is nothing to read: these are no errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

UNLIMITED = 1 << 62

_KILOBYTE = 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_AT_ONCE = 1 << 16


class Stat(NamedTuple):
    """One process.

    Attributes:
        state: a letter; "Z": its first thread has ended.
        threads: how many it has; one that has ended has one, too.
        cpu: milliseconds that it took, with those of its children that it has buried.
        started: when, in ticks since the machine did: with `pid` it names the process for ever.
        stack: where its program's stack begins: forks share it, programs that were started differ;
            0 where we may not know.
    """

    pid: int
    state: str
    parent: int
    session: int
    cpu: int
    started: int
    stack: int
    threads: int = 1

    @property
    def ended(self) -> bool:
        """It has, and waits for its parent; nothing but its number is left."""
        return self.state == "Z" and self.threads <= 1


def read(path: str) -> bytes:
    """A file of /proc, whole; empty when it is gone or closed to us."""
    try:
        return read_or_raise(path)
    except OSError:
        return b""


def read_or_raise(path: str) -> bytes:
    """A file of /proc, whole. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = part = os.read(fd, _AT_ONCE)
        while part:
            part = os.read(fd, _AT_ONCE)
            text += part
        return text
    finally:
        os.close(fd)


def pids() -> Iterator[int]:
    """Every process that this machine shows us."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    yield from map(int, filter(str.isdigit, names))


def stat(pid: int) -> Stat | None:
    """One process; None: it is gone."""
    line = read(f"/proc/{pid}/stat")
    if not line:
        return None
    # The name in parentheses may hold anything, so fields are counted from its end.
    fields = line[line.rindex(b")") + 2 :].split()
    cpu = sum(map(int, fields[11:15])) * _TICK_MS
    return Stat(
        pid=pid,
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu=int(cpu),
        started=int(fields[19]),
        stack=int(fields[25]),
        threads=int(fields[17]),
    )


def kilobytes(text: bytes, label: bytes) -> int:
    """Bytes in a line such as `RssAnon:  12 kB`; 0: there is none. `label`: with the line break before."""
    at = text.find(label)
    return int(text[at + len(label) : text.index(b" kB", at)]) * _KILOBYTE if at >= 0 else 0


def resident(pid: int) -> int:
    """Bytes in memory, shared pages included."""
    pages = read(f"/proc/{pid}/statm").split()[1:2]
    return int(pages[0]) * _PAGE if pages else 0


def data_limit(pid: int) -> int:
    """Bytes of private writable address space that a process may have; `UNLIMITED` where it is unknown."""
    for line in read(f"/proc/{pid}/limits").splitlines():
        if line.startswith(b"Max data size"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else UNLIMITED
    return UNLIMITED


def cpu_of(pid: int, thread: int) -> int | None:
    """Nanoseconds that a thread of a process has taken; None: there is no such thread."""
    words = read(f"/proc/{pid}/task/{thread}/schedstat").split()
    return int(words[0]) if words else None


def children(pid: int) -> list[int]:
    """Direct children, those too that have ended and wait for it."""
    if lists_children():
        return list(_listed(pid))
    return [child for child in pids() if (found := stat(child)) and found.parent == pid]


def descendants(pid: int) -> Iterator[int]:
    """Children, their children and so on, in whatever session: parents first."""
    found: set[int] = set()
    waiting = [pid]
    table = None if lists_children() else _table()
    while waiting:
        parent = waiting.pop()
        for child in _listed(parent) if table is None else table.get(parent, ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
                yield child


@cache
def lists_children() -> bool:
    """Whether this kernel says who a process's children are; else all processes have to be asked."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _listed(pid: int) -> Iterator[int]:
    """Each thread has the children that it made."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        yield from map(int, read(f"/proc/{pid}/task/{thread}/children").split())


def _table() -> dict[int, list[int]]:
    """The children of everybody."""
    table: dict[int, list[int]] = {}
    for found in filter(None, map(stat, pids())):
        table.setdefault(found.parent, []).append(found.pid)
    return table
