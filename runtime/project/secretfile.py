"""The local signing secret: made once, kept in `supabase/.functions/`, the same for everyone who asks."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile

from runtime.errors import KeysError

FOLDER = os.path.join("supabase", ".functions")
FILE = "jwt_secret"


def ensure_secret(root: str) -> str:
    """The project's local secret; made if there is none yet.

    Raises:
        KeysError: it can neither be read nor made.
    """
    folder = os.path.join(root, FOLDER)
    path = os.path.join(folder, FILE)
    try:
        return _read(path) or _make(folder, path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeysError(
            f"the local signing secret cannot be kept here: {reason}",
            where=path,
            remedy="let this user write here, or set JWT_SECRET (`openssl rand -hex 32` makes one)",
        ) from None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _make(folder: str, path: str) -> str:
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    # The file that keeps the folder out of git is also the lock between two that start at once.
    with open(os.path.join(folder, ".gitignore"), "a", encoding="utf-8") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not guard.tell():
            guard.write("*\n")
        return _read(path) or _write(folder, path, secrets.token_hex(32))


def _write(folder: str, path: str, secret: str) -> str:
    descriptor, temporary = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return secret
