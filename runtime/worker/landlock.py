"""`sandbox = "landlock"`: the kernel lets a worker see only what it needs of the disk.

Landlock (Linux 5.13 and later) needs no privilege, holds for every program that the worker
starts, and cannot be taken off. Read-only: the interpreter, installed packages, programs
and libraries of the system, its settings, /proc. Read and write: the worker's own folder.
Nothing else, above all not the project. The network stays open. See docs/security.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import ssl
import stat
import sys
from collections.abc import Iterable, Iterator

from runtime.errors import StartError
from runtime.process import renounce_privileges

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1 << 0
_PATH_BENEATH = 1

# Rights on files, as linux/landlock.h numbers them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

# What lies in here cannot be signalled or reached from there: abstract sockets and signals.
_SCOPES, _SCOPES_ABI = 1 << 0 | 1 << 1, 6

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/proc"),
    *("/nix/store", "/gnu/store", "/sys/devices/system"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_LINKED_FROM_ETC = ("/etc/resolv.conf", "/etc/hosts", "/etc/localtime")


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def confine(*, writable: str, hidden: str) -> None:
    """Shut this process and all that it starts in; for good.

    Args:
        writable: the one folder that it may change.
        hidden: what it shall not read, though it may lie in a folder of the system. Packages
            inside it (a virtual environment in the project) stay readable.

    Raises:
        StartError: the kernel cannot do this, or refuses.
    """
    abi = version()
    if abi < 1:
        raise StartError(
            'this kernel cannot do what sandbox = "landlock" asks for',
            remedy="use Linux 5.13 or later with landlock among its security modules (and a container "
            'runtime that lets it through), or set sandbox = "off"',
        )
    if len(os.listdir("/proc/self/task")) > 1:
        raise StartError("the sandbox cannot be closed any more: this process has several threads already")
    renounce_privileges()  # the kernel asks for it
    try:
        _restrict(abi, writable, readable(hidden))
    except OSError as error:
        raise StartError(
            f'the kernel refused what sandbox = "landlock" asks for: {error.strerror}',
            remedy='set sandbox = "off", or let the container runtime allow it',
        ) from error


def version() -> int:
    """What the kernel knows of Landlock: its ABI, or 0."""
    if sys.platform != "linux":
        return 0
    with contextlib.suppress(OSError):
        return _syscall(_CREATE_RULESET, None, 0, _VERSION)
    return 0


def readable(hidden: str) -> list[str]:
    """The paths that stay readable, links resolved: none of them holds `hidden`."""
    hole = os.path.realpath(hidden)
    found: dict[str, None] = {}
    for path in _wanted():
        for part in _without(os.path.realpath(path), hole):
            found[part] = None
    return list(found)


def _wanted() -> Iterator[str]:
    yield from _SYSTEM
    yield from (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), sys.prefix, sys.base_prefix)
    yield os.path.dirname(os.__file__)
    yield from (path for path in sys.path if path)
    yield from _certificates()
    for link in _LINKED_FROM_ETC:
        target = os.path.realpath(link)
        # The folder, for what the system replaces while we run: a rule is on what is there now.
        yield os.path.dirname(target) if target.startswith("/run/") else target


def _certificates() -> Iterator[str]:
    usual = ssl.get_default_verify_paths()
    yield from (path for path in (usual.cafile, usual.capath) if path)


def _without(path: str, hole: str) -> Iterator[str]:
    """`path`, or, where it holds `hole`, everything in it that does not: rules only ever add."""
    if path == hole:
        return
    if not hole.startswith(path.rstrip("/") + "/"):
        yield path
        return
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(path)):
            child = os.path.join(path, name)
            if not os.path.islink(child):
                yield from _without(child, hole)


def _restrict(abi: int, writable: str, paths: Iterable[str]) -> None:
    rights = _RIGHTS_BY_ABI[max(known for known in _RIGHTS_BY_ABI if known <= abi)]
    scopes = _SCOPES if abi >= _SCOPES_ABI else 0
    attributes = _Ruleset(rights, 0, scopes)
    size = ctypes.sizeof(attributes) if scopes else 8  # older kernels know the first field alone
    ruleset = _syscall(_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    try:
        _allow(ruleset, writable, rights)
        for path in paths:
            _allow(ruleset, path, rights & _READ)
        for path in _DEVICES:
            _allow(ruleset, path, rights & (_READ_FILE | _WRITE_FILE | _IOCTL_DEV))
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Grant rights on all that lies beneath; what is not there, or not for us, needs no rule."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        rule = _Beneath(rights, place)
        _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(place)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
