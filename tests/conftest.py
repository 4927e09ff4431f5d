"""What every test shares."""

from __future__ import annotations

import signal

import pytest

from tests import measured


def pytest_configure(config: pytest.Config) -> None:
    """A shell has its background jobs ignore Ctrl-C, and what they start would ignore it too."""
    if hasattr(config, "workerinput"):  # one of several processes that share the tests out
        config.add_cleanup(measured.tests())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=10, help="how often tests kill the engine")


@pytest.fixture
def kills(pytestconfig: pytest.Config) -> int:
    """How often a process is killed; more than the usual number takes more than a minute."""
    number: int = pytestconfig.getoption("--kills")
    return number


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
