"""Carrying a WebSocket between a client and a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from runtime import frames
from runtime.errors import ChannelClosed, Reported, ShuttingDown, WorkerError
from runtime.gateway import crashes as crashes_module
from runtime.gateway import sockets
from runtime.gateway.deployment import Deployment
from runtime.gateway.exchange import Exchange
from runtime.gateway.feed import ClientGone
from runtime.gateway.metrics import Series
from runtime.gateway.sockets import carry
from tests.gateway.house import House, Link, generation, turns, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 0.001)


class Client:
    """A client of a WebSocket, as its server shows it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        self.events.put_nowait({"type": "websocket.connect"})
        self.sent: list[Message] = []
        self.vanished = False
        self.reads: asyncio.Event | None = None  # what its server waits for before it sends
        self.blocked = 0
        scope = {"type": "websocket", "headers": [], "extensions": {"websocket.http.response": {}}}
        self.exchange = Exchange(scope, self.events.get, self._send, "request-1", Series())

    async def _send(self, message: Any) -> None:
        if self.vanished:
            raise ConnectionResetError
        if self.reads is not None:
            self.blocked += 1
            await self.reads.wait()
        self.sent.append(message)

    def says(self, text: str | None = None, data: bytes | None = None) -> None:
        self.events.put_nowait({"type": "websocket.receive", "text": text, "bytes": data})

    def leaves(self, code: int = 1001, reason: str = "bye") -> None:
        self.events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})

    async def carried(self, deployed: Deployment, subprotocol: str | None = None) -> None:
        head = frames.Head(
            kind="websocket", request_id="request-1", method="GET", path="/f", raw_path=b"/f", headers=[]
        )
        async with asyncio.timeout(10):
            await carry(self.exchange, deployed, head, subprotocol)

    @property
    def kinds(self) -> list[str]:
        return [message["type"].removeprefix("websocket.") for message in self.sent]


async def deploy(house: House, serve: Any, **limits: Any) -> Deployment:
    house.serve = serve
    deployed = Deployment("hello", 0, house.services)
    deployed.roll(generation(**limits))
    await deployed.settled.wait()
    return deployed


async def echo(link: Link, head: frames.Head) -> None:
    """Says everything twice until it hears "stop"."""
    link.accept()
    link.send(frames.SocketAccept(None, [(b"x", b"y")]))
    while True:
        frame = await link.receive()
        if not isinstance(frame, frames.SocketMessage):
            link.worker.heads.append(head)
            return
        if frame.text == "stop":
            link.send(frames.SocketClose(3000, "stopped"))
            return
        link.send(frame)


async def test_messages_go_both_ways_until_the_function_closes(house: House) -> None:
    client = Client()
    client.says("hi")
    client.says(data=b"\x00")
    client.says("stop")
    await client.carried(await deploy(house, echo))
    assert client.sent == [
        {
            "type": "websocket.accept",
            "subprotocol": None,
            "headers": [(b"x", b"y"), (b"sb-request-id", b"request-1")],
        },
        {"type": "websocket.send", "text": "hi", "bytes": None},
        {"type": "websocket.send", "text": None, "bytes": b"\x00"},
        {"type": "websocket.close", "code": 3000, "reason": "stopped"},
    ]
    assert (client.exchange.status, client.exchange.code) == (101, "")
    assert house.workers[0].heads[0].generation == "g1"


@pytest.mark.parametrize(("chosen", "echoed"), [("mine", "mine"), (None, "offered")])
async def test_a_subprotocol_is_the_functions_or_the_one_that_was_offered(
    house: House, chosen: str | None, echoed: str
) -> None:
    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.SocketAccept(chosen), frames.SocketClose())

    client = Client()
    await client.carried(await deploy(house, serve), "offered")
    assert client.sent[0]["subprotocol"] == echoed


async def test_the_clients_closing_is_the_usual_end(house: House) -> None:
    client = Client()
    deployed = await deploy(house, echo)
    running = asyncio.create_task(client.carried(deployed))
    await until(lambda: client.sent)
    client.leaves()
    await running
    assert client.kinds == ["accept"]
    assert (client.exchange.status, client.exchange.code) == (101, "")
    assert len(house.workers[0].heads) == 2  # the function heard of it
    assert house.kills == []
    assert deployed.pool is not None
    assert deployed.pool.in_flight == 0


async def test_a_client_that_vanishes_while_it_is_told_something_is_no_error(house: House) -> None:
    client = Client()
    running = asyncio.create_task(client.carried(await deploy(house, echo)))
    await until(lambda: client.sent)
    client.vanished = True
    client.says("hi")
    await running
    assert client.exchange.code == ""
    await until(lambda: house.workers[0].links[0].closed)


async def test_a_client_that_leaves_before_it_is_accepted_ends_its_request(house: House) -> None:
    heard: list[str] = []

    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        try:
            while True:
                heard.append(type(await link.receive()).__name__)
        except ChannelClosed:
            heard.append("closed")

    client = Client()
    running = asyncio.create_task(client.carried(await deploy(house, serve)))
    await until(lambda: house.workers[0].heads)
    client.leaves()
    with pytest.raises(ClientGone):
        await running
    await until(lambda: heard == ["SocketClose", "closed"])
    assert client.sent == []


async def test_a_function_may_finish_after_its_client_left(house: House) -> None:
    go = asyncio.Event()

    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.SocketAccept())
        assert isinstance(await link.receive(), frames.SocketClose)
        link.send(frames.SocketMessage("to nobody", None))
        await go.wait()
        assert not link.lost

    client = Client()
    deployed = await deploy(house, serve)
    running = asyncio.create_task(client.carried(deployed))
    await until(lambda: client.sent)
    client.leaves()
    await turns(50)
    assert deployed.pool is not None
    assert deployed.pool.in_flight == 1
    assert not running.done()
    go.set()
    await running
    assert client.kinds == ["accept"]
    assert (client.exchange.status, client.exchange.code) == (101, "")


async def test_but_not_for_ever(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_FAREWELL_S", 0.01)

    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.SocketAccept())
        await until(lambda: link.closed)

    client = Client()
    running = asyncio.create_task(client.carried(await deploy(house, serve)))
    await until(lambda: client.sent)
    client.leaves()
    await running
    assert client.exchange.code == ""
    await until(lambda: house.workers[0].links[0].closed)


async def test_a_client_that_leaves_gives_its_place_in_the_queue_up(house: House) -> None:
    deployed = await deploy(house, echo, concurrency=1)
    first, second, third = Client(), Client(), Client()
    serving = asyncio.create_task(first.carried(deployed))
    await until(lambda: first.sent)
    waiting = [asyncio.create_task(client.carried(deployed)) for client in (second, third)]
    assert deployed.pool is not None
    pool = deployed.pool
    await until(lambda: pool.queued == 2)
    second.leaves()
    with pytest.raises(ClientGone):
        await waiting[0]
    assert pool.queued == 1
    first.says("stop")
    await serving
    third.says("stop")
    await waiting[1]
    assert third.kinds == ["accept", "close"]
    assert pool.in_flight == 0


async def test_a_handshake_that_the_function_refuses_is_its_response(house: House) -> None:
    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(403, [(b"x", b"y")]), frames.Body(b"n", True), frames.Body(b"o"))

    client = Client()
    await client.carried(await deploy(house, serve))
    assert client.kinds == ["http.response.start", "http.response.body", "http.response.body"]
    assert client.sent[0]["status"] == client.exchange.status == 403
    assert (b"sb-request-id", b"request-1") in client.sent[0]["headers"]


async def test_closing_instead_of_accepting_is_a_403(house: House) -> None:
    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.SocketClose(1000, ""))

    client = Client()
    await client.carried(await deploy(house, serve))
    assert client.exchange.status == 403
    assert client.kinds == ["http.response.start", "http.response.body"]


async def test_a_failure_before_accepting_is_a_refusal(house: House) -> None:
    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Failure("BAD_REQUEST", "takes no WebSocket"))

    with pytest.raises(Reported, match="takes no WebSocket"):
        await Client().carried(await deploy(house, serve))


@pytest.mark.parametrize("dies", [False, True])
async def test_a_failure_after_accepting_closes_with_1011(house: House, dies: bool) -> None:
    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.SocketAccept())
        await asyncio.sleep(0.01)
        if dies:
            link.worker.die(-9)
        else:
            link.send(frames.Failure("WORKER_ERROR", "a secret"))

    client = Client()
    await client.carried(await deploy(house, serve))
    assert client.sent[-1]["code"] == 1011
    assert "secret" not in client.sent[-1]["reason"]
    assert client.exchange.code == "WORKER_ERROR"


async def test_a_worker_that_dies_before_accepting_costs_nothing(house: House) -> None:
    fates = ["dies"]

    async def serve(link: Link, head: frames.Head) -> None:
        if fates:
            fates.pop()
            link.worker.die(-9)
        else:
            await echo(link, head)

    client = Client()
    running = asyncio.create_task(client.carried(await deploy(house, serve)))
    await until(lambda: client.sent)
    client.says("hi")
    client.says("stop")
    await running
    assert client.kinds == ["accept", "send", "close"]


@pytest.mark.parametrize("accepts", [False, True])
async def test_a_worker_that_always_dies_is_a_worker_error(house: House, accepts: bool) -> None:
    calls = 0

    async def serve(link: Link, head: frames.Head) -> None:
        nonlocal calls
        calls += 1
        if accepts:
            link.mark()
        link.worker.die(-9)

    with pytest.raises(WorkerError):
        await Client().carried(await deploy(house, serve))
    assert calls == (1 if accepts else 2)


async def test_a_function_that_reads_nothing_stops_the_client(house: House) -> None:
    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.SocketAccept())
        await asyncio.Event().wait()

    client = Client()
    for _ in range(300):
        client.says(data=bytes(16 * 1024))
    running = asyncio.create_task(client.carried(await deploy(house, serve)))
    before = -1
    while before != client.events.qsize() or not client.sent:
        before = client.events.qsize()
        await asyncio.sleep(0.02)
    assert client.events.qsize() > 150
    running.cancel()
    await asyncio.wait([running])


# --- when the worker is to leave ------------------------------------------------------------


@pytest.mark.parametrize(("reason", "code"), [("reload", 1012), ("removed", 1001), ("termination", 1001)])
async def test_a_worker_that_is_to_leave_closes_its_sockets_and_says_why(
    house: House, reason: str, code: int
) -> None:
    heard: list[frames.RequestFrame] = []

    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.SocketAccept())
        heard.append(await link.receive())
        link.send(frames.SocketMessage("to nobody", None))

    client = Client()
    deployed = await deploy(house, serve)
    running = asyncio.create_task(client.carried(deployed))
    await until(lambda: client.sent)
    deployed.forewarn(reason)
    await running
    assert client.kinds == ["accept", "close"]
    assert client.sent[-1]["code"] == code
    assert heard == [frames.SocketClose(code, client.sent[-1]["reason"])]
    assert (client.exchange.status, client.exchange.code) == (101, "")


async def test_a_handshake_that_has_begun_is_finished_before_the_socket_is_closed(house: House) -> None:
    go = asyncio.Event()

    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        await go.wait()
        link.send(frames.SocketAccept())
        assert isinstance(await link.receive(), frames.SocketClose)

    client = Client()
    deployed = await deploy(house, serve)
    running = asyncio.create_task(client.carried(deployed))
    await until(lambda: house.workers[0].heads)
    deployed.forewarn("reload")
    await turns()
    assert client.sent == []
    go.set()
    await running
    assert [message.get("code") for message in client.sent] == [None, 1012]


async def test_a_socket_that_comes_too_late_goes_to_the_next_version_if_there_is_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.on_drain = lambda worker: None
    deployed = await deploy(house, echo)
    old = deployed.pool
    assert old is not None
    old.dismiss("reload")
    with pytest.raises(ShuttingDown):
        await Client().carried(deployed)
    deployed.roll(generation("g2"))
    await deployed.settled.wait()
    client = Client()
    client.says("stop")
    with monkeypatch.context() as patched:
        taken = iter([(old, old.workers[0])])  # a slot of the old one, in the moment it was replaced
        patched.setattr(sockets, "take", lambda deployed: next(taken, None))
        old.workers[0].in_flight += 1
        await client.carried(deployed)
    assert client.sent[-1]["code"] == 3000
    assert house.workers[-1].heads[0].generation == "g2"


async def test_a_client_that_does_not_read_delays_nobody_and_hears_of_it_when_it_does(house: House) -> None:
    client = Client()
    deployed = await deploy(house, echo)
    running = asyncio.create_task(client.carried(deployed))
    await until(lambda: client.sent)
    reads = asyncio.Event()
    client.reads = reads
    client.says("hi")
    await until(lambda: client.blocked)
    deployed.forewarn("termination")
    await until(lambda: len(house.workers[0].heads) == 2)  # the function has heard of it
    assert client.kinds == ["accept"]
    reads.set()
    await running
    assert client.kinds == ["accept", "send", "close"]


@pytest.mark.parametrize("says", [[], ["something that cannot be answered"]])
async def test_who_never_reads_is_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch, says: list[str]
) -> None:
    monkeypatch.setattr(sockets, "_FAREWELL_S", 0.02)
    client = Client()
    deployed = await deploy(house, echo)
    running = asyncio.create_task(client.carried(deployed))
    await until(lambda: client.sent)
    client.reads = asyncio.Event()
    for text in says:
        client.says(text)
        await until(lambda: client.blocked)
    deployed.forewarn("termination")
    await running
    assert client.kinds == ["accept"]


async def test_a_function_that_closes_in_the_same_moment_is_heard_first(house: House) -> None:
    client = Client()
    deployed = await deploy(house, echo)
    running = asyncio.create_task(client.carried(deployed))
    await until(lambda: client.sent)
    client.reads = asyncio.Event()
    client.says("stop")
    await until(lambda: client.blocked)
    deployed.forewarn("reload")
    client.reads.set()
    await running
    assert [message.get("code") for message in client.sent] == [None, 3000]


async def test_a_websocket_that_a_blocked_worker_has_not_begun_with_goes_to_another(house: House) -> None:
    def serve(link: Link, head: frames.Head) -> Any:
        return asyncio.Event().wait() if link.worker is house.workers[0] else echo(link, head)

    deployed = await deploy(house, serve, min_workers=2)
    pool = deployed.pool
    assert pool is not None
    await until(lambda: len(pool.workers) == 2)
    client = Client()
    carried = asyncio.create_task(client.carried(deployed))
    await until(lambda: house.workers[0].heads)
    pool.workers[0].block()
    await until(lambda: client.sent)
    client.says("stop")
    await carried
    assert client.kinds == ["accept", "close"]
    assert client.exchange.worker == house.workers[1].pid
    assert (house.kills, pool.in_flight) == ([], 0)
