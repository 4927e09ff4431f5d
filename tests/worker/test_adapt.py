"""From what `index.py` exports to one ASGI application."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from runtime.errors import BadRequest, InvalidResponse
from runtime.worker.adapt import from_app, from_handler
from runtime.worker.exports import is_async
from runtime.worker.request import Request
from tests.worker.asgi import ask, scope

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


def app_of(handler: Callable[..., Any], threads: int = 8) -> ASGIApp:
    return from_handler(handler, None, threads)


# --- what is async ------------------------------------------------------------------------


async def coroutine(request: Any) -> None: ...


async def generator(request: Any) -> AsyncIterator[str]:
    yield "a"


class Callable_:
    async def __call__(self, request: Any) -> None: ...


@pytest.mark.parametrize(
    "function",
    [coroutine, generator, functools.partial(coroutine, None), Callable_()],
    ids=["coroutine", "generator", "partial", "object"],
)
def test_async_is_known_in_every_form(function: Any) -> None:
    assert is_async(function)


@pytest.mark.parametrize("function", [len, lambda request: None, functools.partial(print, "x"), object()])
def test_anything_else_runs_on_a_thread(function: Any) -> None:
    assert not is_async(function)


# --- handlers -----------------------------------------------------------------------------


async def test_an_async_handler_runs_on_the_loop() -> None:
    async def handler(request: Request) -> dict[str, Any]:
        return {"thread": threading.current_thread() is threading.main_thread(), "sent": await request.json()}

    answer = await ask(app_of(handler), b'{"a": 1}')
    assert json.loads(answer.body) == {"thread": True, "sent": {"a": 1}}


async def test_a_handler_sees_its_path_its_claims_and_our_kind_of_request() -> None:
    async def handler(request: Request) -> list[Any]:
        return [type(request).__module__, request.url.path, request.auth]

    request = scope("/tasks/7", auth={"role": "anon"}, root_path="")
    assert json.loads((await ask(app_of(handler), request=request)).body) == [
        "runtime.worker.request",
        "/tasks/7",
        {"role": "anon"},
    ]


async def test_a_plain_handler_runs_on_a_thread_and_sees_its_context() -> None:
    def handler(request: Request) -> list[Any]:
        return [threading.current_thread() is threading.main_thread(), variable.get()]

    variable.set("of this request")
    assert json.loads((await ask(app_of(handler))).body) == [False, "of this request"]


async def test_a_plain_handler_may_return_something_to_await() -> None:
    async def later(request: Request) -> str:
        return request.method

    answer = await ask(app_of(lambda request: later(request)))
    assert answer.body == b"POST"


async def test_an_async_generator_is_a_handler() -> None:
    async def handler(request: Request) -> AsyncIterator[str]:
        yield (await request.body()).decode()
        yield "!"

    assert (await ask(app_of(handler), b"hello")).pieces == [b"hello", b"!"]


async def test_a_plain_generator_is_a_handler() -> None:
    def handler(request: Request) -> Any:
        yield "a"
        yield "b"

    assert (await ask(app_of(handler))).pieces == [b"a", b"b"]


async def test_plain_handlers_run_side_by_side_up_to_the_limit() -> None:
    running, most = 0, 0
    lock, both = threading.Lock(), threading.Barrier(2)

    def handler(request: Request) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(10)  # passes only if two run at the same time
        with lock:
            running -= 1

    app = app_of(handler, threads=2)
    await asyncio.gather(*(ask(app) for _ in range(6)))
    assert most == 2


async def test_a_thread_that_nobody_waits_for_keeps_its_place_until_it_ends() -> None:
    release, began = threading.Event(), threading.Event()

    def handler(request: Request) -> str:
        began.set()
        release.wait(10)
        return "done"

    app = app_of(handler, threads=1)
    left = asyncio.ensure_future(ask(app))
    await asyncio.to_thread(began.wait, 10)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    next_ = asyncio.ensure_future(ask(app))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not next_.done()
    release.set()
    assert (await next_).body == b"done"


async def test_a_wait_for_a_thread_can_be_cancelled() -> None:
    release, began, calls = threading.Event(), threading.Event(), 0

    def handler(request: Request) -> str:
        nonlocal calls
        calls += 1
        began.set()
        release.wait(10)
        return "done"

    app = app_of(handler, threads=1)
    first = asyncio.ensure_future(ask(app))
    await asyncio.to_thread(began.wait, 10)
    second = asyncio.ensure_future(ask(app))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    assert (await first).body == b"done"
    assert (await ask(app)).body == b"done"
    assert calls == 2


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("x")], ids=repr)
async def test_what_a_plain_handler_raises_reaches_its_caller_and_nobody_else(error: BaseException) -> None:
    def handler(request: Request) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await ask(app_of(handler))
    assert raised.value is error


# --- HTTPException ------------------------------------------------------------------------


@pytest.mark.parametrize("threaded", [False, True])
async def test_an_http_exception_is_an_answer(threaded: bool) -> None:
    def plain(request: Request) -> None:
        raise HTTPException(418, "short and stout", {"x-pot": "tea"})

    async def handler(request: Request) -> None:
        plain(request)

    answer = await ask(app_of(plain if threaded else handler))
    assert answer.status == 418
    assert json.loads(answer.body) == {"message": "short and stout"}
    assert answer.headers["x-pot"] == "tea"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_http_exception_whose_status_allows_no_body_has_none(status: int) -> None:
    """A body there would be taken for the beginning of the next response."""

    async def handler(request: Request) -> None:
        raise HTTPException(status, headers={"etag": '"x"'})

    answer = await ask(app_of(handler))
    assert (answer.status, answer.body, answer.headers["etag"]) == (status, b"", '"x"')
    assert "content-length" not in answer.headers


async def test_an_answer_that_is_none_is_an_error() -> None:
    async def handler(request: Request) -> Any:
        return object()

    with pytest.raises(InvalidResponse):
        await ask(app_of(handler))


# --- WebSockets ---------------------------------------------------------------------------


async def connect(app: ASGIApp) -> list[Message]:
    events: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hi"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return events.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope(type="websocket", subprotocols=[]), receive, send)
    return sent


async def test_a_websocket_function_stands_beside_the_handler() -> None:
    async def websocket(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text(await ws.receive_text() + "!")
        await ws.close()

    sent = await connect(from_handler(coroutine, websocket, 8))
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[1]["text"] == "hi!"


async def test_a_function_without_one_takes_no_websocket() -> None:
    with pytest.raises(BadRequest, match="takes no WebSocket"):
        await connect(from_handler(coroutine, None, 8))


# --- exported applications ----------------------------------------------------------------


async def seen_by_app(path: str, **changes: Any) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)
        await Response()(scope, receive, send)

    await ask(from_app(app, "tasks", {"database": "open"}), request=scope(path, **changes))
    return seen


@pytest.mark.parametrize(
    ("path", "raw", "full", "full_raw"),
    [
        ("/tasks/7", b"/tasks/7", "/functions/v1/tasks/7", b"/functions/v1/tasks/7"),
        ("/tasks", b"/tasks", "/functions/v1/tasks/", b"/functions/v1/tasks/"),
        ("/tasks/", b"/tasks/", "/functions/v1/tasks/", b"/functions/v1/tasks/"),
        (
            "/tasks/a b/ö",
            b"/tasks/a%20b/%C3%B6",
            "/functions/v1/tasks/a b/ö",
            b"/functions/v1/tasks/a%20b/%C3%B6",
        ),
        ("/tasks/a/b", b"/tasks/a%2Fb", "/functions/v1/tasks/a/b", b"/functions/v1/tasks/a%2Fb"),
    ],
)
async def test_an_app_sees_the_full_path_and_where_it_is_mounted(
    path: str, raw: bytes, full: str, full_raw: bytes
) -> None:
    seen = await seen_by_app(path, raw_path=raw)
    assert (seen["path"], seen["raw_path"], seen["root_path"]) == (full, full_raw, "/functions/v1/tasks")


async def test_an_app_without_a_prefix_is_mounted_at_its_name() -> None:
    seen = await seen_by_app("/tasks", root_path="")
    assert (seen["path"], seen["root_path"]) == ("/tasks/", "/tasks")


async def test_each_request_has_what_the_lifespan_made_and_its_own_copy() -> None:
    counts: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["count"] += 1
        counts.append(scope["state"]["count"])
        await Response()(scope, receive, send)

    mounted = from_app(app, "tasks", {"count": 0})
    await ask(mounted)
    await ask(mounted)
    assert counts == [1, 1]


async def test_an_apps_own_routes_start_at_its_name_and_its_urls_lead_back() -> None:
    async def item(request: StarletteRequest) -> Response:
        return JSONResponse({"id": request.path_params["id"], "url": str(request.url_for("item", id="8"))})

    async def root(request: StarletteRequest) -> Response:
        return PlainTextResponse("root")

    app = from_app(Starlette(routes=[Route("/", root), Route("/{id}", item, name="item")]), "tasks", {})
    headers = [(b"host", b"localhost:54321")]
    assert (await ask(app, request=scope("/tasks", method="GET", headers=headers))).body == b"root"
    answer = await ask(app, request=scope("/tasks/7", method="GET", headers=headers))
    assert json.loads(answer.body) == {"id": "7", "url": "http://localhost:54321/functions/v1/tasks/8"}
