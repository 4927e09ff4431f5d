"""The request's id: one name for it in the response, the log and the function."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

HEADER = b"sb-request-id"

_VALID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's id when it sent exactly one valid `sb-request-id`, else a fresh one."""
    sent = [value for name, value in headers if name == HEADER]
    if len(sent) == 1 and _VALID.fullmatch(sent[0]):
        return sent[0].decode("ascii")
    return fresh()


_pool = b""


def fresh() -> str:
    """A random UUID, version 4. Randomness is fetched for 256 of them at once."""
    global _pool
    if not _pool:
        _pool = os.urandom(16 * 256)
    digits, _pool = _pool[:16].hex(), _pool[16:]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
