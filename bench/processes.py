"""What the processes of a server have: descriptors, threads, memory.

Our processes hide what they have from others, so descriptors and private memory are there
for root alone.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import msgspec

from bench.servers import Server

_STATUS = re.compile(r"^(Name|VmRSS|Threads):\s+(\S+)", re.MULTILINE)
_ROLLUP = re.compile(r"^(Pss|Private_Clean|Private_Dirty): +(\d+) kB", re.MULTILINE)


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One process at one moment.

    Attributes:
        resident, private, proportional: memory in MB. The last two, `descriptors` and `sockets`,
            which are some of them, are None where only root could know.
    """

    name: str
    threads: int
    resident: float
    descriptors: int | None = None
    sockets: int | None = None
    private: float | None = None
    proportional: float | None = None


def look(pid: int) -> Look | None:
    """See what a process has; None: it is gone."""
    place = Path(f"/proc/{pid}")
    try:
        found = dict(_STATUS.findall((place / "status").read_text()))
        if "VmRSS" not in found:  # it has ended and is not waited for yet
            return None
        resident = int(found["VmRSS"]) * 1024 / 1e6
        seen = Look(name=found["Name"], threads=int(found["Threads"]), resident=resident)
        return _closer(place, seen)
    except (FileNotFoundError, ProcessLookupError):
        return None


def _closer(place: Path, seen: Look) -> Look:
    try:
        links = [_link(entry.path) for entry in os.scandir(place / "fd")]
        rollup = Counter[str]()
        for name, kilobytes in _ROLLUP.findall((place / "smaps_rollup").read_text()):
            rollup[name.partition("_")[0]] += int(kilobytes)
    except PermissionError:
        return seen
    return msgspec.structs.replace(
        seen,
        descriptors=len(links),
        sockets=sum(link.startswith("socket:") for link in links),
        private=rollup["Private"] * 1024 / 1e6,
        proportional=rollup["Pss"] * 1024 / 1e6,
    )


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed meanwhile
        return ""


def look_at(server: Server) -> dict[int, Look]:
    """Every process of a server, by pid."""
    seen = ((pid, look(pid)) for pid in server.family())
    return {pid: found for pid, found in seen if found is not None}
