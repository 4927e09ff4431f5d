"""The request id is the client's when it is a decent one."""

from __future__ import annotations

import uuid

import pytest

from runtime.gateway.requestid import request_id


@pytest.mark.parametrize("sent", ["a", "0194-abc_D.9", "x" * 128])
def test_a_valid_id_of_the_client_is_kept(sent: str) -> None:
    assert request_id([(b"host", b"x"), (b"sb-request-id", sent.encode())]) == sent


@pytest.mark.parametrize("sent", [b"", b"x" * 129, b"a b", b"a\n", b"a/b", b"\xff", b"<script>"])
def test_an_invalid_id_is_replaced(sent: bytes) -> None:
    fresh = request_id([(b"sb-request-id", sent)])
    assert uuid.UUID(fresh).version == 4


def test_a_doubled_id_is_replaced() -> None:
    assert request_id([(b"sb-request-id", b"a"), (b"sb-request-id", b"a")]) != "a"


def test_fresh_ids_are_random_uuids_and_differ() -> None:
    ids = {request_id([]) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(str(uuid.UUID(one)) == one and uuid.UUID(one).variant == uuid.RFC_4122 for one in ids)
