"""Which Host names are served: the defence of a local server against DNS rebinding.

A web page that points its own name at 127.0.0.1 would otherwise reach the functions
with the page's origin. Bound elsewhere, the server is public and any name is fine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from runtime.errors import BadRequest
from runtime.project.load import is_loopback
from runtime.project.settings import Settings

_ALWAYS = ("localhost", "127.0.0.1", "[::1]", "host.docker.internal")
_REMEDY = (
    "This Host name is not served here: the server listens on loopback only; "
    "add the name to `[edge_runtime] hosts` in supabase/config.toml"
)
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+?)\.?(?::[0-9]{0,5})?")


_REMEMBERED = 64


class HostCheck:
    """Decides by the Host header whether a request is served.

    Args:
        settings: `host` says where the server is bound, `hosts` which further names are
            served on loopback; a port in them is not expected.
    """

    def __init__(self, settings: Settings) -> None:
        self.strict = is_loopback(settings.host)
        names = (*_ALWAYS, settings.host, *settings.hosts)
        self.names = {name.lower().rstrip(".").encode() for name in names}
        self._allowed: set[bytes] = set()  # spellings that passed; bounded, since clients choose them

    def allows(self, host: bytes | None) -> bool:
        """Whether a request with this Host header (None: it has none) is served."""
        if not self.strict:
            return True
        match = _HOST.fullmatch(host) if host else None
        return match is not None and match[1].lower() in self.names

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Refuse a request whose Host is missing, doubled or not served.

        Raises:
            BadRequest: the message names the setting that would allow it.
        """
        if not self.strict:
            return
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) == 1 and hosts[0] in self._allowed:
            return
        if len(hosts) != 1 or not self.allows(hosts[0]):
            raise BadRequest(_REMEDY)
        if len(self._allowed) < _REMEMBERED:
            self._allowed.add(hosts[0])
