"""One server for all clients, and what they need to know of it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.clients.functions import CONFIG, FUNCTIONS, PUBLISHABLE
from tests.gateway.signing import sign
from tests.running import SECRET, Server, project, serving


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = project(tmp_path_factory.mktemp("clients"), FUNCTIONS, CONFIG)
    keys = {"SUPABASE_PUBLISHABLE_KEYS": json.dumps({"default": PUBLISHABLE})}
    with serving(root, env=keys) as server:
        yield server


@pytest.fixture(scope="package")
def nobody() -> Iterator[str]:
    """An address that refuses connections, kept from others for as long."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="package")
def world(server: Server, nobody: str) -> dict[str, str]:
    """What a tour is told."""
    claims = {"sub": "user-1", "role": "authenticated", "exp": int(time.time()) + 3600}
    return {
        "url": server.url,
        "nobody": nobody,
        "anon": server.token(),
        "user": sign(claims, SECRET),
        "foreign": sign(claims, "another-secret-that-is-long-enough-to-sign"),
        "publishable": PUBLISHABLE,
    }
