"""From what a handler returns to a response."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from starlette.responses import HTMLResponse, Response, StreamingResponse

from runtime.errors import InvalidResponse
from runtime.worker.response import JSONResponse, Relayed, as_response
from tests.worker.asgi import Answer, ask, scope

pytestmark = pytest.mark.anyio


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Struct(msgspec.Struct):
    name: str


class Color(enum.Enum):
    RED = "red"


class Pydantic:
    """Looks like a pydantic model."""

    def __repr__(self) -> str:
        return "Pydantic()"

    def model_dump(self, *, mode: str) -> dict[str, str]:
        return {"mode": mode}


async def answer_to(value: Any) -> Answer:
    return await ask(as_response(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, None, True]}, {"a": [1, None, True]}),
        ({}, {}),
        ([], []),
        ([1, "two"], [1, "two"]),
        ((1, 2), [1, 2]),
        ({1}, [1]),
        (0, 0),
        (2.5, 2.5),
        (2**70, 2**70),
        (False, False),
        (float("nan"), None),
        (Point(1, 2.0), {"x": 1, "y": 2.0}),
        (Struct("s"), {"name": "s"}),
        (Pydantic(), {"mode": "json"}),
        ([Pydantic()], [{"mode": "json"}]),
        (Color.RED, "red"),
        (decimal.Decimal("1.5"), "1.5"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (datetime.date(2026, 11, 20), "2026-11-20"),
        (np.array([[1.0, 2.0]], dtype=np.float32), [[1.0, 2.0]]),
        ({"vector": np.float32(0.5)}, {"vector": 0.5}),
        ({"ä": "ö€🙂"}, {"ä": "ö€🙂"}),
        ({1: "number"}, {"1": "number"}),
    ],
    ids=repr,
)
async def test_data_becomes_json(value: Any, expected: Any) -> None:
    answer = await answer_to(value)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == expected
    assert answer.headers["content-length"] == str(len(answer.body))


async def test_json_is_utf8_without_escapes() -> None:
    assert (await answer_to({"a": "ö€🙂"})).body == '{"a":"ö€🙂"}'.encode()


@pytest.mark.parametrize("text", ["", "plain", "ö€🙂"])
async def test_a_string_is_text_in_utf8(text: str) -> None:
    answer = await answer_to(text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.decode() == text


@pytest.mark.parametrize("value", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")])
async def test_bytes_are_sent_as_they_are(value: bytes | bytearray | memoryview) -> None:
    answer = await answer_to(value)
    assert (answer.headers["content-type"], answer.body) == ("application/octet-stream", b"\x00\xff")


async def test_nothing_is_204_without_a_body() -> None:
    answer = await answer_to(None)
    assert (answer.status, answer.body) == (204, b"")
    assert "content-type" not in answer.headers


@pytest.mark.parametrize("response", [Response("x", 201), HTMLResponse("<p>"), JSONResponse(Point(1, 2))])
def test_a_response_is_sent_as_it_is(response: Response) -> None:
    assert as_response(response) is response


class Bad:
    pass


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [Bad(), Bad, Response, Pydantic, object(), {"a": Bad()}, circle(), {(1, 2): 3}, ["\ud800"]],
    ids=[
        "object", "class", "response class", "model class", "bare object", "nested", "circle", "key",
        "half a character",
    ],
)  # fmt: skip
def test_what_is_no_response_is_named(value: Any) -> None:
    with pytest.raises(InvalidResponse, match=r"the handler returned a \w+, which is no response"):
        as_response(value)


async def test_a_coroutine_that_was_forgotten_is_no_response() -> None:
    async def nothing() -> None: ...

    forgotten = nothing()
    with pytest.raises(InvalidResponse, match="coroutine"):
        as_response(forgotten)
    forgotten.close()


# --- generators ---------------------------------------------------------------------------


class Told:
    """Generators that tell of their end."""

    def __init__(self) -> None:
        self.closed = 0

    def sync(self, pieces: list[Any]) -> Iterator[Any]:
        try:
            yield from pieces
        finally:
            self.closed += 1

    async def asynchronous(self, pieces: list[Any]) -> AsyncIterator[Any]:
        try:
            for piece in pieces:
                yield piece
        finally:
            self.closed += 1


@pytest.fixture(params=["sync", "async"])
def stream(request: pytest.FixtureRequest) -> tuple[Told, Callable[[list[Any]], Any]]:
    told = Told()
    return told, told.sync if request.param == "sync" else told.asynchronous


Made = tuple[Told, Callable[[list[Any]], Any]]


async def test_a_generator_is_a_stream_of_text(stream: Made) -> None:
    told, make = stream
    answer = await answer_to(make(["a", "ö", b"\xff", bytearray(b"c"), memoryview(b"d"), {"n": 1}, 2]))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers
    assert answer.pieces == [b"a", "ö".encode(), b"\xff", b"c", b"d", b'{"n":1}\n', b"2\n"]
    assert told.closed == 1


async def test_an_empty_generator_is_an_empty_text(stream: Made) -> None:
    _, make = stream
    answer = await answer_to(make([]))
    assert (answer.status, answer.body, answer.messages[-1]["more_body"]) == (200, b"", False)


async def test_a_generator_that_yields_what_cannot_be_sent_breaks_the_stream_and_is_closed(
    stream: Made,
) -> None:
    told, make = stream
    with pytest.raises(TypeError):
        await answer_to(make(["a", object(), "never"]))
    assert told.closed == 1


async def abandoned(value: Any, at: str) -> None:
    """Answer a client that leaves at the response's start, or at its first piece."""

    async def receive() -> Any:
        raise AssertionError("a response does not read")

    async def send(message: Any) -> None:
        if at == "start" or message.get("body"):
            raise OSError("the client is gone")

    with pytest.raises(OSError, match="gone"):
        await as_response(value)(scope(), receive, send)


async def test_a_generator_is_closed_when_nobody_takes_what_it_yields(stream: Made) -> None:
    told, make = stream
    await abandoned(make(["a", "b"]), at="piece")
    assert told.closed == 1


async def test_a_failure_of_the_generator_itself_is_not_taken_for_the_clients_leaving() -> None:
    async def handler() -> AsyncIterator[str]:
        yield "a"
        raise FileNotFoundError("data.txt")

    with pytest.raises(FileNotFoundError):
        await answer_to(handler())


async def test_a_generator_is_closed_when_its_request_is_cancelled() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "tick"
                await asyncio.Event().wait()
        finally:
            closed.set()

    answering = asyncio.ensure_future(answer_to(endless()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert closed.is_set()


async def test_server_sent_events_are_not_held_back_on_their_way() -> None:
    response = StreamingResponse(Told().asynchronous(["data: 1\n\n"]), media_type="text/event-stream")
    answer = await answer_to(response)
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


async def test_what_the_function_says_about_caching_its_events_stays() -> None:
    headers = {"cache-control": "private"}
    response = StreamingResponse(Told().asynchronous([]), media_type="text/event-stream", headers=headers)
    assert (await answer_to(response)).headers["cache-control"] == "private"


# --- streams that know how they want to be sent -------------------------------------------


class Relay:
    """A stream of its own kind."""

    content_type = "application/x-ndjson"
    status = 207

    def __init__(self, pieces: list[Any]) -> None:
        self.headers = [("x-model", "tiny"), ("Cache-Control", "no-store")]
        self.closed = 0
        self._pieces = pieces

    async def body(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        self.closed += 1


def test_a_stream_of_a_user_is_known_by_its_shape() -> None:
    assert isinstance(Relay([]), Relayed)


async def test_a_relayed_stream_says_how_it_is_sent() -> None:
    relay = Relay([b"1\n", b"2\n"])
    answer = await answer_to(relay)
    assert (answer.status, answer.pieces) == (207, [b"1\n", b"2\n"])
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-model"] == "tiny"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert relay.closed == 1


async def test_a_relayed_stream_that_fails_is_closed_and_does_not_end_cleanly() -> None:
    relay = Relay([b"1\n", RuntimeError("upstream broke")])
    with pytest.raises(RuntimeError, match="upstream broke"):
        await answer_to(relay)
    assert relay.closed == 1


@pytest.mark.parametrize("at", ["start", "piece"])
async def test_a_relayed_stream_is_closed_when_nobody_takes_what_it_sends(at: str) -> None:
    relay = Relay([b"1\n", b"2\n"])
    await abandoned(relay, at)
    assert relay.closed == 1
