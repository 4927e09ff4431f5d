"""Limits that a request brings along, in tests."""

from __future__ import annotations

import pytest

from runtime import frames
from runtime.errors import BadRequest
from runtime.gateway import testlimits
from runtime.project.settings import Limits

LIMITS = Limits(timeout_s=400, idle_s=150, websocket_idle_s=300)


def head(**headers: bytes) -> frames.Head:
    pairs = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return frames.Head(request_id="1", method="GET", path="/x", raw_path=b"/x", headers=pairs)


def test_each_header_stands_for_its_limit() -> None:
    asked = head(x_limit_cpu_ms=b"50", x_limit_timeout_ms=b"1500", x_limit_idle_ms=b"20")
    clocks = testlimits.take(asked, LIMITS)
    assert clocks is not None
    assert (clocks.wall.seconds, clocks.idle.seconds, clocks.socket.seconds) == (1.5, 0.02, 0.02)
    assert asked.cpu_ms == 50


def test_what_is_not_asked_for_stays_as_it_is() -> None:
    asked = head(x_limit_timeout_ms=b"0")
    clocks = testlimits.take(asked, LIMITS)
    assert clocks is not None
    assert (clocks.wall.seconds, clocks.idle.seconds, clocks.socket.seconds) == (0, 150, 300)
    assert asked.cpu_ms is None
    assert testlimits.take(head(accept=b"*/*"), LIMITS) is None


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"1s", b"\xb2", b"9" * 10])
def test_what_is_no_number_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest, match="x-limit-idle-ms"):
        testlimits.take(head(x_limit_idle_ms=value), LIMITS)
