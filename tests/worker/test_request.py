"""The request that a handler gets."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message

from runtime.errors import InvalidJSON, rule_of
from runtime.worker.request import Request
from tests.worker.asgi import scope

pytestmark = pytest.mark.anyio


def request(*pieces: bytes, **changes: Any) -> Request:
    events = [
        {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
        for index, piece in enumerate(pieces)
    ]

    async def receive() -> Message:
        return events.pop(0)

    return Request(scope(**changes), receive)


async def test_the_body_is_json_however_it_arrives() -> None:
    assert await request(b'{"a": [1, 2.5, n', b'ull, "\xc3', b'\xb6"]}').json() == {"a": [1, 2.5, None, "ö"]}


async def test_json_can_be_asked_for_twice() -> None:
    asked = request(b'{"a": 1}')
    assert await asked.json() is await asked.json()


async def test_json_can_be_asked_for_after_the_body() -> None:
    asked = request(b'{"a": 1}')
    assert await asked.body() == b'{"a": 1}'
    assert await asked.json() == {"a": 1}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"NaN", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
    ids=["empty", "cut", "python", "utf-16", "latin-1", "two", "nan", "deep"],
)
async def test_what_is_no_json_is_the_clients_mistake(body: bytes, said: str) -> None:
    with pytest.raises(InvalidJSON, match=said) as failure:
        await request(body).json()
    assert isinstance(failure.value, ValueError)
    assert rule_of(failure.value).status == 400


async def test_null_is_json() -> None:
    asked = request(b"null")
    assert await asked.json() is None
    assert await asked.json() is None


def test_the_claims_are_what_the_host_verified() -> None:
    headers = [(b"auth", b"me"), (b"x-auth", b"me")]
    assert request(b"", auth={"role": "anon"}, headers=headers).auth == {"role": "anon"}
    assert request(b"").auth == {}
