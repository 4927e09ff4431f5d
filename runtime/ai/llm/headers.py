"""Headers that a session adds to its requests."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runtime.errors import HostNotConfigured

# RFC 9110, sections 5.1 and 5.5; bytes above ASCII, which it calls obsolete, are left out
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~]*")
_OURS = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_HIDDEN = 4  # characters: to hide a shorter value would black out half of a message


def checked(headers: Mapping[str, str]) -> dict[str, str]:
    """These headers, with names in lower case and values without blanks around them.

    Raises:
        HostNotConfigured: they are none. The message shows no value.
    """
    if not isinstance(headers, Mapping):
        raise HostNotConfigured(f"headers is {type(headers).__name__}: give a mapping of names to strings")
    found: dict[str, str] = {}
    for name, value in headers.items():
        lower = _checked_name(name)
        if lower in found:
            raise HostNotConfigured(f"headers has {name!r} twice: names do not differ by their case")
        found[lower] = _checked_value(name, value)
    return found


def secrets(values: Mapping[str, str]) -> tuple[str, ...]:
    """What no message may show of these headers.

    That is each value, what follows the scheme in one such as `Bearer KEY`, and both as JSON
    would quote them.
    """
    parts = {part for value in values.values() for part in (value, value.partition(" ")[2].strip())}
    parts |= {part.replace("\\", "\\\\").replace('"', '\\"') for part in parts}
    return tuple(sorted(part for part in parts if len(part) >= _HIDDEN))


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise HostNotConfigured(f"headers has {name!r}, which is no name of a header (RFC 9110, section 5.1)")
    if name.lower() in _OURS:
        raise HostNotConfigured(f"headers has {name!r}, which belongs to the connection: leave it out")
    return name.lower()


def _checked_value(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise HostNotConfigured(f"headers[{name!r}] is {type(value).__name__}: give a string")
    if not _VALUE.fullmatch(value):
        raise HostNotConfigured(
            f"headers[{name!r}] has characters that no HTTP header can carry: check for line breaks"
        )
    return value.strip(" \t")
