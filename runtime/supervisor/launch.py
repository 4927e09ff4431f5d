"""From the command line to the supervisor: bind, then become process 0."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from runtime.errors import StartError
from runtime.process import may_change_user
from runtime.project.settings import Options, Project, Settings
from runtime.supervisor import users
from runtime.supervisor.plan import Plan

_BACKLOG = 2048

# What the processes of the host may see of the shell's environment. Functions see none of it.
_KEPT = frozenset(
    (
        *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_DATA_HOME", "LD_LIBRARY_PATH"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "NO_COLOR", "FORCE_COLOR", "TERM"),
        *("WATCHFILES_FORCE_POLLING", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
    )
)


def launch(project: Project, options: Options, environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by the supervisor, serving `project`.

    Raises:
        StartError: the address cannot be bound, or the platform cannot run workers.
    """
    if sys.platform == "win32":
        raise StartError(
            "the server does not run on Windows itself", remedy="run it under WSL2, or in Docker"
        )
    listener = bind(project.settings)
    uid_base, holder = _users()
    plan = Plan(
        sockets=(listener.fileno(),),
        options=msgspec.json.encode(options),
        environ=_readable(environ),
        root=project.settings.root,
        shutdown_s=project.settings.shutdown_s,
        models_dir=project.settings.ai.models_dir,
        preload=project.preload,
        engine_threads=project.settings.ai.threads,
        engine_providers=project.settings.ai.providers,
        models_bytes=project.settings.ai.memory_mb * 1_000_000,
        precisions={**project.settings.ai.precisions},
        uid_base=uid_base,
        users=-1 if holder is None else holder.fileno(),
        color=_wants_color(environ),
        log_json=project.settings.log_format == "json",
    )
    kept = {name: value for name, value in environ.items() if name in _KEPT}
    descriptor = _inheritable_file(msgspec.json.encode(plan))
    for kept_open in filter(None, (listener, holder)):
        kept_open.set_inheritable(True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-I", "-m", "runtime.supervisor", str(descriptor)], kept)


def _users() -> tuple[int, socket.socket | None]:
    """The first user for workers (0: they keep ours), and what holds it and those that follow.

    Raises:
        StartError: we are root, and not allowed to make them somebody else; or there is nobody left.
    """
    if os.geteuid() != 0:
        return 0, None
    if not may_change_user():
        raise StartError(
            "root cannot give functions users of their own here: it lacks CAP_CHOWN, CAP_DAC_OVERRIDE, "
            "CAP_KILL, CAP_SETGID or CAP_SETUID",
            remedy="start it as an ordinary user (docker run --user 10001:10001), or add these capabilities",
        )
    return users.reserve()


def bind(settings: Settings) -> socket.socket:
    """The listening socket. It accepts from now on; what arrives waits for the gateway.

    Raises:
        StartError: the port is taken or the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _bind_error(error, settings) from error
    return listener


def _bind_error(error: OSError, settings: Settings) -> StartError:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"port {settings.port} is taken",
            where=address,
            remedy="choose another with --port, or stop what uses it (another `functions serve`, or a "
            "running Supabase: `supabase stop`)",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartError(
            f"not allowed to listen on port {settings.port}",
            where=address,
            remedy="choose a port above 1023 with --port",
        )
    return StartError(
        f"cannot listen here: {error.strerror or error}",
        where=address,
        remedy="give an address of this machine with --host",
    )


def _readable(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that are text; bytes that are none (a locale's leftovers) are nothing to configure with."""

    def is_text(value: str) -> bool:
        return not any("\ud800" <= character <= "\udfff" for character in value)

    return {name: value for name, value in environ.items() if is_text(name) and is_text(value)}


def _wants_color(environ: Mapping[str, str]) -> bool:
    return sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _inheritable_file(data: bytes) -> int:
    """An unnamed file that survives the exec, with the offset at its start.

    Raises:
        StartError: there is no folder for temporary files; workers would need one too.
    """
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(data)
            file.seek(0)
            descriptor = os.dup(file.fileno())
    except OSError as error:
        raise StartError(
            f"there is no place for temporary files: {error.strerror}",
            remedy="make /tmp writable (docker run --tmpfs /tmp), or name another folder in TMPDIR",
        ) from error
    os.set_inheritable(descriptor, True)
    return descriptor
