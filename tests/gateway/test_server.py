"""The HTTP server's settings."""

from __future__ import annotations

import pytest
from starlette.responses import Response

from runtime.gateway import server
from runtime.gateway.guard import guarded
from runtime.project.settings import Settings


@pytest.mark.parametrize(("shutdown_s", "waits"), [(0, 0), (0.5, 1), (1, 1), (9.5, 10), (10, 10)])
def test_a_shutdown_waits_for_requests_as_long_as_it_says_and_not_for_ever(
    shutdown_s: float, waits: int
) -> None:
    protocol = guarded(1024, 1, lambda status: None)
    made = server.make(Response(), Settings(root="/project", shutdown_s=shutdown_s), protocol)
    assert made.config.timeout_graceful_shutdown == waits


@pytest.mark.parametrize(("descriptors", "room"), [(64, 16), (256, 64), (1024, 448), (1 << 20, 524_224)])
def test_two_descriptors_are_reckoned_for_every_client(descriptors: int, room: int) -> None:
    assert server.room_for_clients(descriptors) == room
