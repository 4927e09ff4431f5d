"""Limits that a request brings along: for tests alone, see `Settings.test_limits`.

A suite can then try every limit on one server, as the peer's does: `x-limit-cpu-ms`,
`x-limit-timeout-ms` and `x-limit-idle-ms` stand for `cpu_ms`, `timeout_s` and, for requests
and WebSockets alike, `idle_s` and `websocket_idle_s`.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec.structs import replace

from runtime import frames
from runtime.errors import BadRequest
from runtime.gateway.deadlines import Clocks
from runtime.project.settings import Limits

_CPU, _TIMEOUT, _IDLE = b"x-limit-cpu-ms", b"x-limit-timeout-ms", b"x-limit-idle-ms"
_DIGITS = 9


def take(head: frames.Head, limits: Limits) -> Clocks | None:
    """The time limits that a request asks for; its processor time is written into `head`.

    Raises:
        BadRequest: one is no whole number of milliseconds.
    """
    asked = {name: _number(name, value) for name, value in head.headers if name in (_CPU, _TIMEOUT, _IDLE)}
    head.cpu_ms = asked.get(_CPU)
    if _TIMEOUT in asked:
        limits = replace(limits, timeout_s=asked[_TIMEOUT] / 1000)
    if _IDLE in asked:
        limits = replace(limits, idle_s=asked[_IDLE] / 1000, websocket_idle_s=asked[_IDLE] / 1000)
    return _clocks(limits) if asked else None


def _number(name: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > _DIGITS:
        raise BadRequest(f"{name.decode()} is no whole number of milliseconds")
    return int(value)


@lru_cache(maxsize=64)
def _clocks(limits: Limits) -> Clocks:
    return Clocks(limits)
