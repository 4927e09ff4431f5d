"""What a handler may return, and what becomes of it, over a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.conformance.wire import Wire
from tests.running import Server, project, serving

VALUES = """
import asyncio
import dataclasses
import datetime
import enum
import uuid
from collections import OrderedDict
from decimal import Decimal

import msgspec
from runtime import HTTPException, JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask


@dataclasses.dataclass
class Point:
    x: int
    label: str = "größer"


class Struct(msgspec.Struct):
    x: int
    inner: Point


class Model:
    def model_dump(self, mode="python"):
        return {"mode": mode, "when": "2026-01-01"}


class Array:
    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values


class Color(enum.Enum):
    RED = "red"


class Shouting:
    async def __call__(self, scope, receive, send):
        await Response("any ASGI application is no Response")(scope, receive, send)


def generator():
    yield "one "
    yield b"two "
    yield {"three": 3}


async def agenerator():
    yield "eins "
    yield "größer 🎈"


def background():
    print("the background task ran")


VALUES = {
    "response": lambda: Response("made", 201, {"x-own": "1"}, media_type="text/x-own"),
    "json-response": lambda: JSONResponse({"a": Point(1)}, 202),
    "streaming-response": lambda: StreamingResponse(agenerator(), media_type="text/event-stream"),
    "background": lambda: Response("first", background=BackgroundTask(background)),
    "dict": lambda: {"text": "größer 🎈", "nested": [1, {"deep": None}]},
    "ordered": lambda: OrderedDict(z=1, a=2),
    "empty-dict": dict,
    "list": lambda: [1, "two", None],
    "empty-list": list,
    "tuple": lambda: (1, 2),
    "set": lambda: {7},
    "int": lambda: 42,
    "big-int": lambda: 2**63 - 1,
    "zero": lambda: 0,
    "float": lambda: 1.5,
    "nan": lambda: float("nan"),
    "true": lambda: True,
    "false": lambda: False,
    "dataclass": lambda: Point(1),
    "struct": lambda: Struct(1, Point(2, "p")),
    "model": Model,
    "models": lambda: [Model(), Model()],
    "array": lambda: Array([[0.5, 1.0], [2.0, 3.0]]),
    "scalar": lambda: {"score": Array(0.25)},
    "datetime": lambda: datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    "uuid": lambda: uuid.UUID(int=1),
    "decimal": lambda: Decimal("1.10"),
    "enum": lambda: Color.RED,
    "str": lambda: "größer 🎈",
    "empty-str": lambda: "",
    "html-str": lambda: "<b>no page</b>",
    "bytes": lambda: b"\\x00\\xff",
    "bytearray": lambda: bytearray(b"ab"),
    "memoryview": lambda: memoryview(b"ab"),
    "none": lambda: None,
    "generator": generator,
    "agenerator": agenerator,
}
"""
ASYNC = (
    VALUES
    + """
async def handler(request):
    name = request.url.path.rpartition("/")[2]
    if name == "http-exception":
        raise HTTPException(418, "a teapot", headers={"x-own": "1"})
    if name == "surrogate":
        return "\\ud800"
    return VALUES[name]()
"""
)
SYNC = (
    VALUES
    + """
def handler(request):
    name = request.url.path.rpartition("/")[2]
    if name == "http-exception":
        raise HTTPException(418, "a teapot", headers={"x-own": "1"})
    return VALUES[name]()
"""
)
STREAMS = """
import asyncio
import time


async def slowly():
    try:
        while True:
            yield "piece\\n"
            await asyncio.sleep(0.01)
    finally:
        print("the async generator was closed")


def slowly_on_a_thread():
    try:
        while True:
            yield "piece\\n"
            time.sleep(0.01)
    finally:
        print("the generator was closed")


async def handler(request):
    return slowly_on_a_thread() if request.url.path.endswith("threads") else slowly()
"""
GENERATOR_HANDLERS = {
    "agen": "async def handler(request):\n    yield 'a'\n    yield 'b'",
    "gen": "def handler(request):\n    yield 'a'\n    yield 'b'",
    "partial": "import functools\n"
    "async def greet(word, request): return f'{word} {request.method}'\n"
    "handler = functools.partial(greet, 'hello')",
    "callable": "class Greeter:\n"
    "    async def __call__(self, request): return 'hello ' + request.method\n"
    "handler = Greeter()",
    "lambda": "handler = lambda request: 'hello ' + request.method",
    "returns-coroutine": "async def work(): return 'hello GET'\ndef handler(request): return work()",
}
MEETING = """
import threading

met = threading.Barrier(2, timeout=15)

def handler(request):
    met.wait()
    return threading.current_thread() is not threading.main_thread()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"async": ASYNC, "sync": SYNC, "streams": STREAMS, "meeting": MEETING, **GENERATOR_HANDLERS}
    with serving(project(tmp_path_factory.mktemp("returns"), functions)) as server:
        yield server


@pytest.fixture(params=["async", "sync"])
def get(request: pytest.FixtureRequest, client: httpx2.Client) -> Callable[[str], httpx2.Response]:
    """Has a handler (`async def` and plain `def`) return one of the values."""
    return lambda name: client.get(f"/{request.param}/{name}")


Get = Callable[[str], httpx2.Response]

JSON: dict[str, Any] = {
    "dict": {"text": "größer 🎈", "nested": [1, {"deep": None}]},
    "ordered": {"z": 1, "a": 2},
    "empty-dict": {},
    "list": [1, "two", None],
    "empty-list": [],
    "tuple": [1, 2],
    "set": [7],
    "int": 42,
    "big-int": 2**63 - 1,
    "zero": 0,
    "float": 1.5,
    "nan": None,
    "true": True,
    "false": False,
    "dataclass": {"x": 1, "label": "größer"},
    "struct": {"x": 1, "inner": {"x": 2, "label": "p"}},
    "model": {"mode": "json", "when": "2026-01-01"},
    "models": [{"mode": "json", "when": "2026-01-01"}] * 2,
    "array": [[0.5, 1.0], [2.0, 3.0]],
    "scalar": {"score": 0.25},
    "datetime": "2026-01-02T03:04:05Z",
    "uuid": "00000000-0000-0000-0000-000000000001",
    "decimal": "1.10",
    "enum": "red",
}


@pytest.mark.parametrize("name", JSON)
def test_values_become_json(get: Get, name: str) -> None:
    response = get(name)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == JSON[name]
    assert int(response.headers["content-length"]) == len(response.content)


def test_json_is_utf_8_and_not_escaped(get: Get) -> None:
    assert "größer 🎈".encode() in get("dict").content


@pytest.mark.parametrize(
    ("name", "text"), [("str", "größer 🎈"), ("empty-str", ""), ("html-str", "<b>no page</b>")]
)
def test_a_string_becomes_plain_text_in_utf_8(get: Get, name: str, text: str) -> None:
    response = get(name)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.content == text.encode()


@pytest.mark.parametrize(
    ("name", "data"), [("bytes", b"\x00\xff"), ("bytearray", b"ab"), ("memoryview", b"ab")]
)
def test_bytes_become_an_octet_stream(get: Get, name: str, data: bytes) -> None:
    response = get(name)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.content == data


def test_none_becomes_a_204_without_a_body(get: Get) -> None:
    response = get("none")
    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers
    assert "content-length" not in response.headers


def test_a_response_is_sent_as_it_is(get: Get) -> None:
    response = get("response")
    assert (response.status_code, response.text, response.headers["x-own"]) == (201, "made", "1")
    assert response.headers["content-type"].startswith("text/x-own")


def test_json_responses_take_the_same_values(get: Get) -> None:
    response = get("json-response")
    assert (response.status_code, response.json()) == (202, {"a": {"x": 1, "label": "größer"}})


def test_an_http_exception_becomes_its_status_its_detail_and_its_headers(get: Get) -> None:
    response = get("http-exception")
    assert (response.status_code, response.json()) == (418, {"message": "a teapot"})
    assert response.headers["x-own"] == "1"


def test_a_background_task_runs_after_the_response(get: Get, server: Server) -> None:
    before = server.log.count("the background task ran")
    assert get("background").text == "first"
    server.wait_for_log("the background task ran", before + 1)


def test_a_string_that_is_no_unicode_is_an_error_and_no_half_response(client: httpx2.Client) -> None:
    assert client.get("/async/surrogate").json()["code"] in ("INVALID_RESPONSE", "WORKER_ERROR")


# --- streams -------------------------------------------------------------------------------


def test_a_generator_becomes_a_stream_of_plain_text(get: Get) -> None:
    response = get("generator")
    assert response.content == b'one two {"three":3}\n'
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["transfer-encoding"] == "chunked"


def test_an_async_generator_becomes_a_stream_too(get: Get) -> None:
    response = get("agenerator")
    assert response.content == "eins größer 🎈".encode()
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


def test_server_sent_events_are_neither_cached_nor_buffered(get: Get) -> None:
    response = get("streaming-response")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("name", ["agen", "gen"])
def test_a_handler_may_be_a_generator_itself(client: httpx2.Client, name: str) -> None:
    assert client.get(f"/{name}").text == "ab"


@pytest.mark.parametrize("name", ["partial", "callable", "lambda", "returns-coroutine"])
def test_a_handler_may_be_anything_that_can_be_called(client: httpx2.Client, name: str) -> None:
    assert client.get(f"/{name}").text == "hello GET"


@pytest.mark.parametrize(
    ("path", "told"), [("async", "the async generator was closed"), ("threads", "the generator was closed")]
)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_generator_is_closed_when_the_client_leaves(
    wire: Wire, server: Server, path: str, told: str, how: str
) -> None:
    before = server.log.count(told)
    wire.ask("GET", f"/functions/v1/streams/{path}")
    assert wire.head().status == 200
    assert wire.chunk() == b"piece\n"
    getattr(wire, how)()
    server.wait_for_log(told, before + 1)


# --- threads -------------------------------------------------------------------------------


def test_plain_handlers_run_on_threads_beside_one_another(client: httpx2.Client) -> None:
    """Both wait for each other, so one after the other would not do."""
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: client.get("/meeting"), range(2)))
    assert [answer.text for answer in answers] == ["true", "true"]
