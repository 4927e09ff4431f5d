"""One connection carries one request after another."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest
from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from runtime import frames
from runtime.channel import CHUNK, Stream, open_stream
from runtime.context import Call, current, is_cancelled
from runtime.door import socket_pair
from runtime.errors import BadRequest, ChannelClosed, InvalidInput, WorkerLimit
from runtime.ledger import Ledger, new_file
from runtime.worker import logs
from runtime.worker.accounting import Meter
from runtime.worker.adapt import from_handler
from runtime.worker.link import Link
from runtime.worker.request import Request

pytestmark = pytest.mark.anyio

DECODER = msgspec.msgpack.Decoder(frames.ResponseFrame)
variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Host:
    """A worker, as its connections see it."""

    function = "f"
    cpu_ms = 5

    def __init__(self) -> None:
        self.leaving = False
        self.in_flight = 0
        self.kept: list[tuple[Call, Any]] = []
        self.left_behind: list[Call] = []
        self.application: ASGIApp = Response("unset")

    def began(self) -> None:
        self.in_flight += 1

    def ended(self) -> None:
        self.in_flight -= 1

    def keep(self, call: Call, awaitable: Any) -> asyncio.Task[Any]:
        self.kept.append((call, awaitable))
        return asyncio.ensure_future(awaitable)

    def linger(self, call: Call, task: asyncio.Task[Any]) -> None:
        if not task.done():
            self.left_behind.append(call)

    def explain(self, error: BaseException) -> str:
        return f"explained: {error!r}"

    def limit_behind(self, error: BaseException) -> WorkerLimit | None:
        return WorkerLimit("too much (memory_mb)") if isinstance(error, MemoryError) else None


class Line:
    """A worker's connection with the test as the gateway."""

    def __init__(self, host: Host, link: Link, gateway: Stream[frames.ResponseFrame], meter: Meter) -> None:
        self.host, self.link, self.gateway = host, link, gateway
        self.meter, self.ledger = meter, meter.ledger

    def serve(self, app: ASGIApp | None = None, *, handler: Callable[..., Any] | None = None) -> None:
        self.host.application = app or from_handler(handler or Response, None, 8)

    def ask(self, *bodies: frames.Body, **changes: Any) -> None:
        values: dict[str, Any] = {"request_id": "1", "method": "POST", "path": "/f", "raw_path": b"/f"}
        more = bool(bodies)
        self.gateway.send(frames.Head(**{"headers": [], "more": more, **values, **changes}), *bodies)

    async def answer(self) -> list[frames.ResponseFrame]:
        """Frames up to the last of the response, without `Accepted`."""
        collected: list[frames.ResponseFrame] = []
        async with asyncio.timeout(10):
            while True:
                frame = await self.gateway.receive()
                if not isinstance(frame, frames.Accepted):
                    collected.append(frame)
                last = isinstance(frame, frames.Failure | frames.SocketClose)
                if last or (isinstance(frame, frames.Body) and not frame.more):
                    return collected

    async def text(self) -> str:
        """The body of the next answer."""
        return b"".join(
            frame.data for frame in await self.answer() if isinstance(frame, frames.Body)
        ).decode()

    async def idle(self) -> None:
        """Wait until the worker has nothing in flight."""
        await until(lambda: not self.host.in_flight)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is the state that is awaited, whoever sets it
            await asyncio.sleep(0)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    host, meter = Host(), Meter(Ledger(new_file(4)))
    ours, theirs = socket_pair()
    link = await open_stream(theirs, lambda: Link(host, meter, 2))
    gateway = await open_stream(ours, lambda: Stream(DECODER))
    yield Line(host, link, gateway, meter)
    gateway.abort()
    link.abort()


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was logged: level and text."""
    records: list[tuple[str, str]] = []
    monkeypatch.setattr(logs, "emit", lambda level, text, request_id="": records.append((level, text)))
    return records


Told = list[tuple[str, str]]


# --- the usual life -----------------------------------------------------------------------


async def test_requests_are_answered_one_after_another(line: Line) -> None:
    async def handler(request: Request) -> str:
        return (await request.body()).decode() + "!"

    line.serve(handler=handler)
    for number in range(50):
        line.ask(frames.Body(f"{number}".encode(), False))
        assert await line.text() == f"{number}!"
    await line.idle()


async def test_a_request_is_accepted_before_its_handler_runs(line: Line) -> None:
    marked: list[bool] = []
    go = asyncio.Event()

    async def handler(request: Request) -> str:
        marked.append(line.ledger.is_begun(2))
        await go.wait()
        return "done"

    line.serve(handler=handler)
    assert not line.ledger.is_begun(2)
    line.ask()
    await until(lambda: marked)
    assert marked == [True]
    go.set()
    assert await line.text() == "done"
    assert [line.ledger.is_begun(slot) for slot in range(4)] == [False, False, True, False]


async def test_acceptance_is_told_where_the_gateway_waits_for_it(line: Line) -> None:
    line.serve(Response("quick"))
    line.ask(frames.Body(b"a part", True))
    assert await line.gateway.receive() == frames.Accepted()
    assert isinstance(await line.gateway.receive(), frames.Start)


@pytest.mark.parametrize(
    "bodies", [(), (frames.Body(b"all"),), (frames.Body(b"in ", True), frames.Body(b"parts"))]
)
async def test_acceptance_of_a_request_that_is_all_here_is_not_told(
    line: Line, bodies: tuple[frames.Body, ...]
) -> None:
    line.serve(Response("quick"))
    line.ask(*bodies)
    assert isinstance(await line.gateway.receive(), frames.Start)


async def test_a_worker_that_leaves_accepts_nothing_more(line: Line) -> None:
    line.host.leaving = True
    line.serve(Response("never"))
    line.ask()
    with pytest.raises(ChannelClosed):
        await line.answer()
    assert not line.ledger.is_begun(2)
    assert line.host.in_flight == 0


async def test_the_handler_knows_which_request_it_answers(line: Line) -> None:
    seen: list[Call | None] = []

    async def handler(request: Request) -> None:
        seen.append(current.get())

    line.serve(handler=handler)
    line.ask(request_id="abc", deadline=12.5)
    await line.answer()
    assert seen[0] is not None
    assert (seen[0].id, seen[0].function, seen[0].deadline) == ("abc", "f", 12.5)
    assert current.get() is None


async def test_work_that_outlives_the_response_is_given_to_the_worker(line: Line) -> None:
    from runtime.context import wait_until

    async def later() -> str:
        return "kept"

    async def handler(request: Request) -> None:
        wait_until(later())

    line.serve(handler=handler)
    line.ask(request_id="abc")
    await line.answer()
    ((call, _),) = line.host.kept
    assert call.id == "abc"


async def test_a_request_that_is_over_leaves_nothing_to_the_garbage_collector(line: Line) -> None:
    async def handler(request: Request) -> str:
        return "hello"

    line.serve(handler=handler)
    gc.collect()
    before = [each for each in gc.get_objects() if isinstance(each, Call)]
    gc.disable()
    try:
        for number in range(10):
            line.ask(request_id=str(number))
            await line.answer()
        calls = [each for each in gc.get_objects() if isinstance(each, Call)]
    finally:
        gc.enable()
    assert len(calls) <= len(before) + 1  # the last may not be quite over


async def test_a_request_that_takes_too_much_is_answered_and_its_connection_goes_on(line: Line) -> None:
    ended: list[str] = []

    async def handler(request: Request) -> str:
        call = current.get()
        assert call is not None
        calls.append(call)
        if len(calls) == 1:
            line.meter.exceed(call.account)
            ended.append("goes on")
        return "fine"

    calls: list[Call] = []
    line.serve(handler=handler)
    line.ask()
    assert await line.answer() == [
        frames.Failure("WORKER_LIMIT", "The request took more than 5 ms of CPU (cpu_ms)", "cpu_ms")
    ]
    line.ask()
    assert await line.text() == "fine"
    await line.idle()
    assert ended == ["goes on"]
    assert [call.cancelled for call in calls] == [True, False]


async def test_what_is_charged_to_a_websocket_begins_anew_with_every_message(line: Line) -> None:
    costs: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        for _ in range(2):
            await socket.receive_text()
            call = current.get()
            assert call is not None
            costs.append(call.account.cost)
            call.account.cost = 4_000_000

    line.serve(app)
    line.ask(kind="websocket")
    for _ in range(2):
        line.gateway.send(frames.SocketMessage("hello"))
        await until(lambda: len(costs) == 1)
    await line.answer()
    assert costs[1] < 4_000_000


async def test_what_one_request_sets_in_its_context_no_other_sees(line: Line) -> None:
    seen = []

    async def handler(request: Request) -> None:
        seen.append(variable.get())
        variable.set("left behind")

    line.serve(handler=handler)
    for _ in range(2):
        line.ask()
        await line.answer()
    assert seen == ["unset", "unset"]


# --- what handlers leave behind -----------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 4])
async def test_a_body_that_nobody_reads_does_not_stop_the_next_request(line: Line, pieces: int) -> None:
    line.serve(Response("ignored it"))
    for _ in range(3):
        bodies = [frames.Body(bytes(CHUNK), index + 1 < pieces) for index in range(pieces)]
        line.ask(*bodies)
        assert await line.text() == "ignored it"


async def test_a_body_that_arrives_after_the_answer_is_no_part_of_the_next_request(line: Line) -> None:
    async def handler(request: Request) -> str:
        return "early" if request.headers.get("x") else (await request.body()).decode()

    line.serve(handler=handler)
    line.ask(headers=[(b"x", b"1")], more=True)
    assert await line.text() == "early"
    for _ in range(8):
        line.gateway.send(frames.Body(bytes(CHUNK), True))
        await line.gateway.drain()
    line.gateway.send(frames.Body(b"late", False))
    line.ask(frames.Body(b"mine", False))
    assert await line.text() == "mine"


async def test_a_listener_that_a_handler_left_behind_hears_the_end_and_steals_nothing(line: Line) -> None:
    heard: list[str] = []
    listeners: set[asyncio.Task[None]] = set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first = not listeners

        async def listen() -> None:
            heard.append((await receive())["type"])

        body = (await receive())["body"]
        if first:
            listeners.add(asyncio.create_task(listen()))
            await asyncio.sleep(0)
        await Response(body)(scope, receive, send)

    line.serve(app)
    line.ask(frames.Body(b"one", False))
    assert await line.text() == "one"
    line.ask(frames.Body(b"two", False))
    assert await line.text() == "two"
    await until(lambda: heard)
    assert heard == ["http.disconnect"]


async def test_a_background_task_does_not_hold_the_next_request_up(line: Line) -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def background() -> None:
        await go.wait()
        done.set()

    async def handler(request: Request) -> Response:
        return Response("answered", background=BackgroundTask(background) if not go.is_set() else None)

    line.serve(handler=handler)
    line.ask()
    assert await line.text() == "answered"
    assert line.host.in_flight == 1
    line.ask()
    assert await line.text() == "answered"
    assert not done.is_set()
    go.set()
    await line.idle()
    assert done.is_set()


async def test_a_background_task_outlives_the_connection(line: Line) -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def background() -> None:
        await go.wait()
        done.set()

    line.serve(Response("answered", background=BackgroundTask(background)))
    line.ask()
    await line.answer()
    line.gateway.abort()
    await until(lambda: line.link.closed)
    go.set()
    await line.idle()
    assert done.is_set()


async def test_a_background_task_that_fails_is_logged_and_hurts_nobody(line: Line, told: Told) -> None:
    async def background() -> None:
        raise ValueError("after all")

    line.serve(Response("answered", background=BackgroundTask(background)))
    for _ in range(2):
        line.ask()
        assert await line.text() == "answered"
    await line.idle()
    assert told == [("error", "explained: ValueError('after all')")] * 2


async def test_a_background_task_that_is_cancelled_leaves_the_connection_to_the_next_request(
    line: Line,
) -> None:
    cancelled = asyncio.Event()

    async def background() -> None:
        await cancelled.wait()
        raise asyncio.CancelledError

    async def handler(request: Request) -> Response:
        if request.headers.get("x"):
            return Response("first", background=BackgroundTask(background))
        cancelled.set()
        for _ in range(10):
            await asyncio.sleep(0)
        return Response("second")

    line.serve(handler=handler)
    line.ask(headers=[(b"x", b"1")])
    assert await line.text() == "first"
    line.ask()
    assert await line.text() == "second"


async def test_sending_after_the_end_does_not_hide_the_next_request_from_cancellation(line: Line) -> None:
    again, second_began, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not second_began.is_set() and not again.is_set():
            await Response("first")(scope, receive, send)
            await again.wait()
            await send({"type": "http.response.body", "body": b"too late"})
            return
        second_began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    line.serve(app)
    line.ask()
    assert await line.text() == "first"
    again.set()
    line.ask()
    await second_began.wait()
    await until(lambda: line.host.in_flight == 1)
    line.gateway.abort()
    async with asyncio.timeout(5):
        await cancelled.wait()


# --- the client leaves --------------------------------------------------------------------


async def test_the_end_of_the_connection_cancels_the_handler(line: Line, told: Told) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    line.serve(handler=handler)
    line.ask()
    await began.wait()
    line.gateway.abort()
    await line.idle()
    assert cancelled.is_set()
    assert told == []


async def test_the_end_of_the_connection_cancels_a_handler_whose_body_was_not_read(line: Line) -> None:
    """Reading is paused then; the end has to be noticed all the same."""
    began = asyncio.Event()

    async def handler(request: Request) -> None:
        began.set()
        await asyncio.Event().wait()

    line.serve(handler=handler)
    line.ask(*[frames.Body(bytes(CHUNK), True) for _ in range(3)])
    await began.wait()
    await until(lambda: line.link._paused)
    line.gateway.abort()
    await line.idle()


async def test_the_end_of_the_connection_closes_a_generator(line: Line, told: Told) -> None:
    closed = asyncio.Event()

    async def handler(request: Request) -> AsyncIterator[str]:
        try:
            while True:
                yield "tick"
        finally:
            closed.set()

    line.serve(handler=handler)
    line.ask()
    while not isinstance(await line.gateway.receive(), frames.Body):
        pass
    line.gateway.abort()
    await closed.wait()
    await line.idle()
    assert told == []


async def test_a_handler_that_goes_on_after_its_client_left_is_no_error(line: Line, told: Told) -> None:
    began = asyncio.Event()

    async def handler(request: Request) -> str:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "to nobody"

    line.serve(handler=handler)
    line.ask()
    await began.wait()
    line.gateway.abort()
    await line.idle()
    assert told == []


async def test_a_stream_that_goes_on_after_its_client_left_is_no_error(line: Line, told: Told) -> None:
    began = asyncio.Event()

    async def handler(request: Request) -> AsyncIterator[str]:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield "to nobody"

    line.serve(handler=handler)
    line.ask()
    await began.wait()
    line.gateway.abort()
    await line.idle()
    assert told == []


async def test_a_link_that_carries_nothing_just_ends(line: Line, told: Told) -> None:
    line.gateway.abort()
    await until(lambda: line.link.closed)
    assert told == []


# --- failures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError()],
    ids=repr,
)
async def test_whatever_a_handler_raises_hurts_its_request_alone(
    line: Line, told: Told, error: BaseException
) -> None:
    async def handler(request: Request) -> str:
        if request.headers.get("x"):
            raise error
        return "fine"

    line.serve(handler=handler)
    line.ask(headers=[(b"x", b"1")])
    (failure,) = await line.answer()
    assert isinstance(failure, frames.Failure)
    assert failure.code == "WORKER_ERROR"
    assert failure.message != "x"
    assert "see the logs" in failure.message or "check the logs" in failure.message
    assert told == [("error", f"explained: {error!r}")]
    line.ask()
    assert await line.text() == "fine"


async def test_what_failed_at_a_limit_tells_the_client_of_the_limit(line: Line, told: Told) -> None:
    async def handler(request: Request) -> None:
        raise MemoryError

    line.serve(handler=handler)
    line.ask()
    (failure,) = await line.answer()
    assert failure == frames.Failure("WORKER_LIMIT", "too much (memory_mb)")
    assert told == [("error", "explained: MemoryError()")]


@pytest.mark.parametrize(
    ("error", "code"), [(InvalidInput("too odd"), "INVALID_INPUT"), (BadRequest("what?"), "BAD_REQUEST")]
)
async def test_an_error_of_ours_tells_the_client_what_it_says(
    line: Line, told: Told, error: Exception, code: str
) -> None:
    async def handler(request: Request) -> None:
        raise error

    line.serve(handler=handler)
    line.ask()
    assert await line.answer() == [frames.Failure(code, str(error))]
    assert told == [("warning", f"{type(error).__name__}: {error}")]


async def test_a_failure_after_the_beginning_is_told_after_what_was_sent(line: Line, told: Told) -> None:
    async def handler(request: Request) -> AsyncIterator[str]:
        yield "begun"
        raise ValueError("broke")

    line.serve(handler=handler)
    line.ask()
    start, body, failure = await line.answer()
    assert isinstance(start, frames.Start)
    assert body == frames.Body(b"begun", True)
    assert isinstance(failure, frames.Failure)
    assert told == [("error", "explained: ValueError('broke')")]


async def test_an_application_that_never_answers_fails(line: Line, told: Told) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    line.serve(app)
    line.ask()
    (failure,) = await line.answer()
    assert isinstance(failure, frames.Failure)
    assert told[0][0] == "error"
    assert "before its response was complete" in told[0][1]


async def test_a_response_that_is_too_large_for_a_frame_is_an_error_not_a_hang(
    line: Line, told: Told
) -> None:
    line.serve(Response("x", headers={"x-large": "y" * (1 << 20)}))
    line.ask()
    (failure,) = await line.answer()
    assert isinstance(failure, frames.Failure)
    assert failure.code == "INVALID_RESPONSE"
    assert "too large" in failure.message
    line.serve(Response("fine"))
    line.ask()
    assert await line.text() == "fine"


async def test_a_handler_that_waited_for_what_was_cancelled_fails_like_any_other(
    line: Line, told: Told
) -> None:
    async def handler(request: Request) -> str:
        if request.headers.get("x"):
            raise asyncio.CancelledError
        return "fine"

    line.serve(handler=handler)
    line.ask(headers=[(b"x", b"1")])
    (failure,) = await line.answer()
    assert isinstance(failure, frames.Failure)
    assert failure.code == "WORKER_ERROR"
    assert told == [("error", "explained: CancelledError()")]
    line.ask()
    assert await line.text() == "fine"
    await line.idle()


async def test_garbage_from_the_gateway_ends_the_connection(line: Line) -> None:
    line.gateway._transport.write(b"\x01\x00\x00\x00\xc1")
    await until(lambda: line.link.closed)


# --- WebSockets ---------------------------------------------------------------------------


async def test_a_websocket_is_served_and_closed_when_its_function_returns(line: Line) -> None:
    async def websocket(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text("hi " + await ws.receive_text())

    line.host.application = from_handler(Response, websocket, 8)
    line.ask(kind="websocket")
    line.gateway.send(frames.SocketMessage("there", None))
    assert await line.answer() == [
        frames.SocketAccept(None, []),
        frames.SocketMessage("hi there", None),
        frames.SocketClose(1000, ""),
    ]


async def test_a_websocket_function_that_fails_is_a_failure(line: Line, told: Told) -> None:
    async def websocket(ws: WebSocket) -> None:
        await ws.accept()
        raise ValueError("broke")

    line.host.application = from_handler(Response, websocket, 8)
    line.ask(kind="websocket")
    accepted, failure = await line.answer()
    assert isinstance(accepted, frames.SocketAccept)
    assert isinstance(failure, frames.Failure)
    assert told == [("error", "explained: ValueError('broke')")]


async def test_a_websocket_function_may_clean_up_after_its_client_left(line: Line, told: Told) -> None:
    read: list[str] = []
    go = asyncio.Event()

    async def websocket(ws: WebSocket) -> None:
        await ws.accept()
        await go.wait()
        try:
            while True:
                read.append(await ws.receive_text())
        except WebSocketDisconnect as left:
            await asyncio.sleep(0.01)
            read.append(f"left with {left.code}")

    line.host.application = from_handler(Response, websocket, 8)
    line.ask(kind="websocket")
    line.gateway.send(frames.SocketMessage("one", None), frames.SocketMessage("two", None))
    line.gateway.send(frames.SocketClose(1001, ""))
    go.set()
    await until(lambda: line.gateway.closed)
    assert read == ["one", "two", "left with 1001"]
    assert told == []
    assert not line.host.in_flight


async def test_a_websocket_function_that_goes_on_sending_hears_that_its_client_left(
    line: Line, told: Told
) -> None:
    async def websocket(ws: WebSocket) -> None:
        await ws.accept()
        while True:
            await ws.send_text("tick")
            await asyncio.sleep(0)

    line.host.application = from_handler(Response, websocket, 8)
    line.ask(kind="websocket")
    while not isinstance(await line.gateway.receive(), frames.SocketMessage):
        pass
    line.gateway.send(frames.SocketClose(1001, ""))
    await until(lambda: line.gateway.closed)
    assert told == []


async def test_a_websocket_whose_client_left_is_no_error(line: Line, told: Told) -> None:
    async def websocket(ws: WebSocket) -> None:
        await ws.accept()
        while True:
            await ws.send_text(await ws.receive_text())

    line.host.application = from_handler(Response, websocket, 8)
    line.ask(kind="websocket")
    while not isinstance(await line.gateway.receive(), frames.SocketAccept):
        pass
    line.gateway.send(frames.SocketClose(1001, ""))
    await line.idle()
    assert told == []


# --- after the request's end ---------------------------------------------------------------


async def test_a_handler_knows_when_the_host_gives_up(line: Line) -> None:
    seen: list[float] = []

    async def handler(request: Request) -> None:
        call = current.get()
        assert call is not None
        seen.extend((call.deadline, call.limit_s))

    line.serve(handler=handler)
    deadline = time.monotonic() + 30
    line.ask(deadline=deadline, limit_s=30)
    await line.answer()
    assert seen == [deadline, 30]


async def test_a_handler_that_resists_its_cancellation_is_told_of(line: Line) -> None:
    over, begun = asyncio.Event(), asyncio.Event()
    calls: list[Call | None] = []

    async def handler(request: Request) -> None:
        calls.append(current.get())
        begun.set()
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    line.serve(handler=handler)
    line.ask()
    await begun.wait()
    line.gateway.abort()
    await until(lambda: line.host.left_behind)
    assert line.host.left_behind == calls
    assert line.host.left_behind[0].cancelled
    over.set()
    await line.idle()


async def test_a_thread_that_is_left_behind_is_told_of_and_can_ask(line: Line) -> None:
    begun, noticed = threading.Event(), threading.Event()

    def handler(request: Request) -> None:
        begun.set()
        while not is_cancelled():
            time.sleep(0.001)
        noticed.set()

    line.serve(handler=handler)
    line.ask()
    await until(begun.is_set)
    line.gateway.abort()
    await until(noticed.is_set)
    assert [call.id for call in line.host.left_behind] == ["1"]
