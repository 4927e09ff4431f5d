"""Control groups (cgroup v2): the kernel's own limits, one group per worker.

Where they can be had they are the best there is: memory is counted to the page, with
descendants and files in memory, and ending a group leaves nobody behind, whatever session
they went to. They can be had where somebody gave us a group to divide: a service of systemd with
`Delegate=yes`, a container with a writable /sys/fs/cgroup. We never take one that was not
given: `find` says why not.

    GROUP                    what we were given; limits its children, holds no process itself
    ├── functions-server     every process of ours that is no worker
    ├── functions-4711       the worker 4711 and all that it starts
    └── …
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

_PREFIX = "functions-"
_SERVER = f"{_PREFIX}server"
_WANTED = ("memory", "pids")
_DELEGATED = ("user.delegate", "trusted.delegate")  # set by systemd on what it gives away


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What `find` found.

    Attributes:
        folder: our group; empty: there is none that we may use.
        controllers: of "memory" and "pids", those that we can limit with. Without any, groups still
            serve to end all that a worker started.
        why_not: why there is no group, or no controller; for the log.
    """

    folder: str = ""
    controllers: tuple[str, ...] = ()
    why_not: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker and all it starts may take. 0: no limit.

    Attributes:
        memory: bytes, the page cache of its files included as far as it cannot be dropped.
        processes: processes and threads.
    """

    memory: int = 0
    processes: int = 0


def find(ours: Iterable[int], proc: str = "/proc/self") -> Found:
    """Look for a group that we may divide; changes nothing.

    Args:
        ours: the processes of this server.
        proc: this process, in /proc.
    """
    folder = _own_group(proc)
    if folder is None:
        return Found(why_not="there are no control groups of version 2 here")
    if not all(os.access(path, os.W_OK) for path in (folder, folder / "cgroup.procs")):
        return Found(why_not=f"{folder} is not writable")
    if not _is_ours(folder):
        return Found(why_not=f"{folder} was not delegated to us")
    available = set(_words(folder / "cgroup.controllers"))
    controllers = tuple(name for name in _WANTED if name in available)
    if not controllers:
        return Found(folder=str(folder), why_not=f"{folder} has neither the memory nor the pids controller")
    strangers = set(map(int, _words(folder / "cgroup.procs"))) - set(ours)
    if strangers and not _is_root_of_all(folder):
        # A group with limits for its children may hold no process, and these are not ours to move.
        return Found(folder=str(folder), why_not=f"{folder} holds processes that are not ours")
    return Found(folder=str(folder), controllers=controllers)


def _own_group(proc: str) -> Path | None:
    try:
        lines = Path(proc, "cgroup").read_text().splitlines()
        mounts = Path(proc, "mountinfo").read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    mount = next(filter(None, map(_cgroup2_mount, mounts)), None)
    if path is None or mount is None:
        return None
    root, point = mount
    inside = os.path.relpath(path, root)
    folder = Path(os.path.normpath(os.path.join(point, inside)))
    return folder if not inside.startswith("..") and (folder / "cgroup.procs").exists() else None


def _cgroup2_mount(line: str) -> tuple[str, str] | None:
    """(what of the tree is mounted, where), if a line of mountinfo is about cgroup v2."""
    fields, _, after = line.partition(" - ")
    if after.split(" ")[0] != "cgroup2":
        return None
    root, point = fields.split(" ")[3:5]
    return root, point.replace("\\040", " ")


def _is_ours(folder: Path) -> bool:
    """It was given to us: it is a container's own root, our user's, or marked by systemd."""
    if not (folder.parent / "cgroup.procs").exists():
        return True
    if os.geteuid() and folder.stat().st_uid == os.geteuid():
        return True
    return any(_attribute(folder, name) == b"1" for name in _DELEGATED)


def _attribute(folder: Path, name: str) -> bytes:
    try:
        return os.getxattr(folder, name)
    except (OSError, AttributeError):  # macOS has none
        return b""


def _is_root_of_all(folder: Path) -> bool:
    """The one group that may hold processes and limit its children too."""
    return not (folder / "cgroup.type").exists()


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


class Groups:
    """The groups of this server's workers.

    Args:
        found: where, with a folder.
    """

    def __init__(self, found: Found) -> None:
        self._folder = Path(found.folder)
        self.controllers = found.controllers
        self._enabled: list[str] = []

    def open(self, ours: Iterable[int]) -> None:
        """Make room: move our processes into a group of their own, and have limits for the others.

        Raises:
            OSError: the kernel refuses; everything is as before.
        """
        self._sweep()
        if not self.controllers:
            return
        try:
            server = self._folder / _SERVER
            server.mkdir(exist_ok=True)
            if not _is_root_of_all(self._folder):
                self._move(ours, server)
            for name in self.controllers:
                self._write(self._folder / "cgroup.subtree_control", f"+{name}")
                self._enabled.append(name)
        except OSError:
            self.close()
            raise

    def admit(self, pid: int, limits: Limits) -> None:
        """Put a worker that has started nothing yet into a group of its own.

        Raises:
            OSError: it is gone, or the kernel refuses.
        """
        group = self._of(pid)
        group.mkdir(exist_ok=True)
        try:
            for name, value in self._settings(limits).items():
                if (group / name).exists():  # swap and group kills came later than memory.max
                    self._write(group / name, value)
            self._write(group / "cgroup.procs", str(pid))
        except OSError:
            self.dismiss(pid)
            raise

    def _settings(self, limits: Limits) -> dict[str, str]:
        found: dict[str, str] = {}
        if limits.memory and "memory" in self.controllers:
            found |= {"memory.max": str(limits.memory), "memory.swap.max": "0", "memory.oom.group": "1"}
        if limits.processes and "pids" in self.controllers:
            found["pids.max"] = str(limits.processes)
        return found

    def members(self, pid: int) -> list[int]:
        """The worker, as long as it lives, and all that it started."""
        return list(map(int, _words(self._of(pid) / "cgroup.procs")))

    def kill(self, pid: int) -> bool:
        """End the worker and all that it started, at once; False: this kernel (before 5.14) cannot."""
        with contextlib.suppress(OSError):
            if (self._of(pid) / "cgroup.kill").exists():
                self._write(self._of(pid) / "cgroup.kill", "1")
                return True
        return False

    def was_out_of_memory(self, pid: int) -> bool:
        """The kernel ended it because it was at its limit. Asked before `dismiss`."""
        words = _words(self._of(pid) / "memory.events")
        return int(dict(zip(words[::2], words[1::2], strict=False)).get("oom_kill", 0)) > 0

    def dismiss(self, pid: int) -> bool:
        """Remove a worker's group; False: somebody in it has not ended yet, so ask again."""
        with contextlib.suppress(FileNotFoundError):
            try:
                self._of(pid).rmdir()
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Leave the group as it was, as far as nobody is left in ours."""
        self._sweep()
        with contextlib.suppress(OSError):
            for name in self._enabled:
                self._write(self._folder / "cgroup.subtree_control", f"-{name}")
            self._enabled.clear()
            server = self._folder / _SERVER
            self._move(map(int, _words(server / "cgroup.procs")), self._folder)
            server.rmdir()

    def _of(self, pid: int) -> Path:
        return self._folder / f"{_PREFIX}{pid}"

    def _sweep(self) -> None:
        """Remove empty groups, also those of an earlier server that was killed."""
        for group in self._folder.glob(f"{_PREFIX}[0-9]*"):
            with contextlib.suppress(OSError):
                group.rmdir()

    def _move(self, pids: Iterable[int], group: Path) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._write(group / "cgroup.procs", str(pid))

    @staticmethod
    def _write(path: Path, value: str) -> None:
        with open(path, "w", encoding="ascii", opener=_opened) as file:
            file.write(value)


def _opened(path: str, flags: int) -> int:
    """Open what the kernel made: never make a plain file in its place."""
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
