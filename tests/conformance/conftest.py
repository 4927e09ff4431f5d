"""What the suites of the HTTP contract share: a client and raw connections to the module's server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conformance.wire import Wire
from tests.running import Server


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    """With the anon key; the base URL is the functions' prefix."""
    with server.client() as client:
        yield client


@pytest.fixture
def dial(server: Server) -> Iterator[Callable[[], Wire]]:
    """Opens raw connections, and closes them after the test."""
    opened: list[Wire] = []

    def connect() -> Wire:
        opened.append(Wire(server))
        return opened[-1]

    yield connect
    for wire in opened:
        wire.close()


@pytest.fixture
def wire(dial: Callable[[], Wire]) -> Wire:
    return dial()


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that functions can write to, whichever user they run as."""
    folder = Path(tempfile.mkdtemp(prefix="functions-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)
