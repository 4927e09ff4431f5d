"""A worker that breaks the rules of its connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime import frames
from runtime.errors import InvalidResponse, WorkerError
from runtime.gateway import crashes as crashes_module
from runtime.gateway import dispatch as dispatch_module
from runtime.gateway.dispatch import Broken
from tests.gateway.house import House, Link, until
from tests.gateway.test_dispatch import Request
from tests.gateway.test_dispatch import deploy as deploy_http
from tests.gateway.test_sockets import Client
from tests.gateway.test_sockets import deploy as deploy_socket

pytestmark = pytest.mark.anyio

ACCEPT, START, END = frames.SocketAccept(), frames.Start(200, []), frames.Body(b"")
MESSAGE = frames.SocketMessage("hi", None)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 0.001)


def saying(*said: Any) -> Any:
    """A worker that accepts a request, says this and waits."""

    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(*said)
        await asyncio.Event().wait()

    return serve


async def http(house: House, *said: Any) -> Request:
    deployed = await deploy_http(house)
    house.serve = saying(*said)
    request = Request()
    try:
        await request.run(deployed)
    finally:
        await until(lambda: house.workers[0].links[0].closed)  # it is not used again
    return request


@pytest.mark.parametrize("frame", [frames.Body(b"x"), ACCEPT, MESSAGE, frames.SocketClose()])
async def test_what_cannot_begin_a_response_is_a_worker_error(house: House, frame: Any) -> None:
    with pytest.raises(WorkerError):
        await http(house, frame, START, END)


@pytest.mark.parametrize("frame", [START, ACCEPT, MESSAGE, frames.SocketClose(), frames.Failure("X", "x")])
async def test_what_cannot_continue_a_response_breaks_it(house: House, frame: Any) -> None:
    with pytest.raises(Broken):
        await http(house, START, frames.Body(b"x", True), frame)


@pytest.mark.parametrize("said", [[], [frames.Body(b"x", True)] * 3, [frames.Body(b"x", True), END], [START]])
async def test_the_response_to_a_head_ends_with_its_start(
    house: House, monkeypatch: pytest.MonkeyPatch, said: list[Any]
) -> None:
    monkeypatch.setattr(dispatch_module, "_END_S", 0.01)
    deployed = await deploy_http(house)
    house.serve = saying(START, *said)
    request = Request()
    request.exchange.scope["method"] = "HEAD"
    await request.run(deployed)
    assert [message.get("more_body") for message in request.sent] == [None, False]
    await until(lambda: house.workers[0].links[0].closed)
    assert house.kills == []
    assert deployed.pool is not None
    assert deployed.pool.in_flight == 0


async def test_a_connection_whose_head_was_ended_serves_the_next_request(house: House) -> None:
    deployed = await deploy_http(house)
    request = Request()
    request.exchange.scope["method"] = "HEAD"
    await request.run(deployed)
    assert request.body == b""
    await Request().run(deployed)
    assert len(house.workers[0].links) == 1


async def test_a_head_that_cannot_be_sent_is_no_response(house: House) -> None:
    with pytest.raises(InvalidResponse):
        await http(house, frames.Start(200, [(b"x", b"\r\n")]), END)


async def test_a_request_is_accepted_once(house: House) -> None:
    with pytest.raises(WorkerError):
        await http(house, frames.Accepted(), START, END)
    assert house.kills == []


@pytest.mark.parametrize("extra", [frames.Accepted(), END, START])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_worker_that_speaks_on_an_idle_connection_is_ended(
    house: House, extra: Any, at_once: bool
) -> None:
    """What it says would be the answer to somebody's next request."""
    deployed = await deploy_http(house)
    answer = asyncio.Event()

    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(START, END, *([extra] if at_once else []))
        if not at_once:
            await answer.wait()
            link.send(extra)

    house.serve = serve
    await asyncio.wait([asyncio.create_task(Request().run(deployed))])
    answer.set()
    if at_once and isinstance(extra, frames.Accepted):
        await until(lambda: house.workers[0].links[0].closed)  # accepted twice: its connection alone
        return
    await until(lambda: house.kills == [house.workers[0].pid])
    house.serve = house._answer
    request = Request()
    await request.run(deployed)
    assert request.body == b"/hello"


@pytest.mark.parametrize("said", [frames.Ready(1.0), frames.BootFailed("x"), frames.Drained()])
async def test_a_worker_that_says_twice_what_is_said_once_is_ended(house: House, said: Any) -> None:
    await deploy_http(house)
    (worker,) = house.workers
    for _ in range(1000):
        worker.door.send(said)
    await until(lambda: house.kills)
    assert house.kills == [worker.pid]


@pytest.mark.parametrize(
    "said",
    [
        [MESSAGE],
        [frames.Body(b"x")],
        [frames.SocketClose(999, "")],
        [frames.SocketAccept("a\r\nb")],
        [frames.SocketAccept(None, [(b"x", b"\n")])],
        [frames.Start(101, [])],
        [frames.Start(299, [])],
    ],
)
async def test_a_websocket_that_begins_wrongly_is_refused(house: House, said: list[Any]) -> None:
    client = Client()
    with pytest.raises((WorkerError, InvalidResponse)):
        await client.carried(await deploy_socket(house, saying(*said)))
    assert client.sent == []
    assert client.exchange.status == 0


@pytest.mark.parametrize(
    "frame",
    [
        ACCEPT,
        START,
        END,
        frames.SocketMessage(),
        frames.SocketMessage("a", b"b"),
        frames.SocketClose(1005, ""),
        frames.SocketClose(1000, "x" * 124),
    ],
)
async def test_a_websocket_that_goes_on_wrongly_is_closed(house: House, frame: Any) -> None:
    client = Client()
    await client.carried(await deploy_socket(house, saying(ACCEPT, MESSAGE, frame)))
    assert client.kinds == ["accept", "send", "close"]
    assert client.sent[-1]["code"] == 1011
    assert client.exchange.code == "WORKER_ERROR"


@pytest.mark.parametrize("frame", [ACCEPT, START, MESSAGE, frames.SocketClose()])
async def test_a_refusal_that_goes_on_wrongly_is_broken(house: House, frame: Any) -> None:
    client = Client()
    with pytest.raises(WorkerError):
        await client.carried(await deploy_socket(house, saying(START, frames.Body(b"x", True), frame)))
    assert client.kinds == ["http.response.start", "http.response.body"]


async def test_a_refusal_has_an_end(house: House) -> None:
    """The server keeps the whole of it in memory."""
    client = Client()
    pieces = [frames.Body(bytes(256 * 1024), True)] * 20
    with pytest.raises(WorkerError):
        await client.carried(await deploy_socket(house, saying(START, *pieces)))
    assert len(client.sent) == 5
