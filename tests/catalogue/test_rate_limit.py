"""Catalogue 5.9: calls that go round in circles, and requests that must not be mixed up.

There is no budget of calls for a trace in this version. A circle ends because every call of it
holds a place, and places are limited.
"""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.catalogue.place import ROOM_S, Place, told, within
from tests.catalogue.project import WAIT_S

TRACE = "00-{:032x}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("start", ["circlea/other", "circleb/other"])
def test_a_circle_of_functions_that_call_each_other_ends_with_a_429(place: Place, start: str) -> None:
    """74"""
    assert place.server  # the functions call their own project
    with place.client(traceparent=TRACE.format(1)) as client, within(WAIT_S + ROOM_S):
        told_and_retryable(client.get(f"/{start}"))


def test_a_function_that_calls_itself_ends_with_a_429(place: Place) -> None:
    """75"""
    assert place.server
    with place.client(traceparent=TRACE.format(2)) as client, within(WAIT_S + ROOM_S):
        told_and_retryable(client.get("/circlea/self"))


def told_and_retryable(response: httpx2.Response) -> None:
    assert (response.status_code, response.json()["code"]) == (429, "OVERLOADED")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.anyio
async def test_twenty_requests_at_a_time_keep_their_own_traces(place: Place) -> None:
    """76"""
    traces = [TRACE.format(number + 100) for number in range(20)]
    headers = {"authorization": f"Bearer {place.anon}"}
    async with httpx2.AsyncClient(base_url=place.url, headers=headers) as client:

        async def ask(number: int) -> httpx2.Response:
            own = {"traceparent": traces[number], "sb-request-id": f"trace-{number}"}
            return await client.get("/trace", headers=own)

        answers = await asyncio.gather(*map(ask, range(20)))
    assert [answer.json() for answer in answers] == [{"kept": trace, "header": trace} for trace in traces]
    assert [answer.headers["sb-request-id"] for answer in answers] == [f"trace-{n}" for n in range(20)]


def test_what_a_request_prints_is_logged_under_its_own_id(place: Place) -> None:
    """76"""
    with place.client() as client:
        for number in (201, 202):
            own = {"traceparent": TRACE.format(number), "sb-request-id": f"printed-{number}"}
            client.get("/trace", headers=own)
    for number in (201, 202):
        text = f"answering {TRACE.format(number)}"
        place.server.wait_for_log(text)
        (line,) = [line for line in place.server.log.splitlines() if text in line]
        assert f"[printed-{number}]" in line


def test_a_surplus_is_refused_with_the_time_to_come_back(place: Place) -> None:
    """77: 429, and `Retry-After` in seconds instead of `retryAfterMs`"""

    async def ask_four() -> list[httpx2.Response]:
        headers = {"authorization": f"Bearer {place.anon}"}
        async with httpx2.AsyncClient(base_url=place.url, headers=headers, timeout=ROOM_S) as client:
            return await asyncio.gather(*[client.get("/narrow") for _ in range(4)])

    answers = asyncio.run(ask_four())
    assert [answer.status_code for answer in answers].count(200) == 1
    for answer in answers:
        if answer.status_code != 200:
            told(answer, 429, "OVERLOADED")
            assert int(answer.headers["retry-after"]) >= 1
