"""The users that one server's functions run as, and no other's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from runtime.errors import StartError
from runtime.supervisor import users

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """What is held in a test, of users that no server on this machine has."""
    monkeypatch.setattr(users, "FIRST", 1_055_000)
    monkeypatch.setattr(users, "LAST", 1_057_999)
    monkeypatch.setattr(users, "COUNT", 1000)
    with ExitStack() as stack:
        yield stack


def reserve(held: ExitStack) -> int:
    first, holder = users.reserve()
    assert holder is not None
    held.enter_context(holder)
    return first


def test_each_server_has_users_of_its_own_until_it_ends(held: ExitStack) -> None:
    assert [reserve(held), reserve(held)] == [1_055_000, 1_056_000]
    with ExitStack() as short:
        assert reserve(short) == 1_057_000
    assert reserve(held) == 1_057_000


def test_one_more_server_than_there_are_users_for_is_told_what_to_do(held: ExitStack) -> None:
    for _ in range(3):
        reserve(held)
    with pytest.raises(StartError, match=r"1055000 to 1057999(.|\n)*stop one of them"):
        users.reserve()
