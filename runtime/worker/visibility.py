"""Letting unprivileged workers read the interpreter when it lives in a private home.

Started as root, workers become other users. When Python or its packages lie below a
folder that only root may enter (a home, a project in one), an import in a
worker would fail. The template then takes a mount namespace of its own and puts an
empty folder over the private one, with nothing in it but the paths that Python needs:
workers can import, and see less of that home than before, not more.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import sysconfig

from runtime.errors import StartError

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MS_RDONLY, _MS_REMOUNT = 1, 32


def show_interpreter() -> None:
    """Make every folder that imports read reachable for everybody, in this process and its children.

    Raises:
        StartError: the folders are hidden and the kernel lets us change nothing.
    """
    needed = sorted({os.path.realpath(path) for path in _import_roots() if os.path.isdir(path)})
    hidden: dict[str, list[str]] = {}
    for path in needed:
        wall = _private_ancestor(path)
        if wall:
            hidden.setdefault(wall, []).append(path)
    if not hidden:
        return
    try:
        _call("unshare", _CLONE_NEWNS)
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        for wall, paths in hidden.items():
            _uncover(wall, paths)
    except OSError as error:
        raise StartError(
            f"functions cannot run as an unprivileged user: Python is below {sorted(hidden)[0]}, which only "
            f"root may enter ({error.strerror})",
            remedy="install Python and the project outside that folder, or start the server as an "
            "ordinary user",
        ) from error


def _import_roots() -> list[str]:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    stdlib = sysconfig.get_path("stdlib")
    return [package, sys.base_prefix, sys.prefix, stdlib, *(path for path in sys.path if path)]


def _private_ancestor(path: str) -> str:
    """The outermost folder above `path` (or itself) that others may not enter; empty: none."""
    folder = ""
    for part in path.split("/")[1:]:
        folder += f"/{part}"
        if not os.stat(folder).st_mode & stat.S_IXOTH:
            return folder
    return ""


def _uncover(wall: str, paths: list[str]) -> None:
    """Cover `wall` with an empty folder in which only `paths` appear, read-only."""
    outermost = [path for path in paths if not any(_inside(path, other) for other in paths)]
    handles = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in outermost}
    _mount("tmpfs", wall, "tmpfs", 0, "mode=0755,size=64k")
    for path, handle in handles.items():
        os.makedirs(path, mode=0o755, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", path, None, _MS_BIND | _MS_REC)
        _mount("none", path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
        os.close(handle)


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    def encoded(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    _call("mount", encoded(source), encoded(target), encoded(kind), ctypes.c_ulong(flags), encoded(data))


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
