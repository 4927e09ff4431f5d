"""Whatever clients, and workers that a function has taken over, send: nobody else is hurt by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, get_args
from urllib.parse import unquote

import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.fuzz import Canary, Fuzz, Log, inputs, place, shown
from bench.servers import SECRET, Server
from runtime import frames
from runtime.channel import open_stream
from runtime.door import socket_pair
from runtime.errors import FunctionsError
from runtime.framing import pack
from runtime.gateway import crashes
from runtime.gateway.deployment import Deployment
from runtime.gateway.dispatch import Broken
from runtime.ledger import Ledger, new_file
from runtime.worker import logs
from runtime.worker.accounting import Meter
from runtime.worker.adapt import from_handler
from runtime.worker.link import Link as WorkerLink
from tests.gateway.house import House, Link, turns, until
from tests.gateway.test_dispatch import Request, deploy
from tests.test_frames import instance_of
from tests.worker.test_link import Host

INPUTS = 1000


class Place:
    """A server, its log, and what nobody may see of it."""

    def __init__(self, server: Server, canary: Canary, log: Log) -> None:
        self.server, self.canary, self.log = server, canary, log

    def ask(self, target: bytes, *lines: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a GET."""
        head = [b"GET " + target + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *lines, b"", b""]
        with socket.create_connection(("127.0.0.1", self.server.port), 20) as client:
            client.sendall(b"\r\n".join(head))
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        return int(answer[9:12]), json.loads(answer.partition(b"\r\n\r\n")[2] or b"{}")


@pytest.fixture(scope="module")
def around() -> Iterator[Place]:
    log = Log()
    with place(log) as (server, canary):
        yield Place(server, canary, log)


# --- what clients send ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", [4, secrets.randbelow(10**9)], ids=["the same", "another"])
def test_nothing_that_a_client_sends_is_more_than_a_4xx_or_a_close(around: Place, seed: int) -> None:
    processes = set(around.server.family())
    fuzz = Fuzz(around.server.port, [around.canary.text, SECRET.encode()])
    uvloop.run(fuzz.run(inputs(seed, range(INPUTS))))
    assert not fuzz.troubles, "\n".join(shown(seed, *trouble) for trouble in fuzz.troubles[:3])
    assert around.server.ask("hello") == '{"message":"Hello World!"}'
    assert not around.log.troubles, (seed, around.log.troubles[:3])
    assert set(around.server.family()) == processes


PATHS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#"), max_size=200)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=200)


@settings(max_examples=150, deadline=None)
@given(PATHS)
@example("../../canary.txt")
@example("%2e%2e/%00/%c0%ae%ff")
def test_a_function_sees_the_path_that_was_asked_for(around: Place, path: str) -> None:
    status, told = around.ask(b"/functions/v1/open/" + path.encode())
    assert (status, told.get("path")) == (200, f"/open/{unquote(path)}".replace("HTTP/", "http/"))


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, max_size=5))
@example(["behind \t", "\t before"])
def test_a_function_sees_the_headers_that_were_sent(around: Place, values: list[str]) -> None:
    status, told = around.ask(b"/functions/v1/open", *[b"X: " + value.encode("latin-1") for value in values])
    expected = str([["x", value.strip(" \t")] for value in values]).replace("HTTP/", "http/")
    assert status == 200
    assert expected[1:-1] in told["headers"]


# --- what processes say to one another -----------------------------------------------------


class Loop:
    """Runs one example on an event loop of its own, and hears of what nobody has caught."""

    def __init__(self) -> None:
        self.uncaught: list[dict[str, Any]] = []

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, told: self.uncaught.append(told))
            await work()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crashes, "_FIRST_WAIT_S", 0.001)
            patch.setattr(logs, "emit", lambda level, text, request_id="": None)
            asyncio.run(watched())
        assert self.uncaught == []


def said_by(*kinds: Any) -> st.SearchStrategy[list[bytes]]:
    """What a process that has lost its mind says: frames, right or wrong, cut or not, and noise."""
    right = st.one_of(*[instance_of(kind) for kind in kinds]).map(pack)
    cut = st.tuples(right, st.integers(0, 20)).map(lambda both: both[0][: both[1]])
    announced = st.tuples(st.binary(max_size=30), st.integers(0, 3)).map(
        lambda both: (len(both[0]) | both[1] << 24).to_bytes(4, "little") + both[0]
    )
    return st.lists(st.one_of(right, right, cut, announced, st.binary(max_size=30)), max_size=6)


@contextlib.asynccontextmanager
async def unhurt() -> AsyncIterator[tuple[House, Deployment]]:
    """A function with one played worker; whatever is done to it inside, the next request is answered."""
    house = House()
    try:
        deployed = await deploy(house, max_workers=1)
        yield house, deployed
        other = Request()
        await other.run(deployed)
        assert (other.status, other.body) == (200, b"/hello")
        assert "Traceback" not in house.log
    finally:
        await house.close()


@settings(max_examples=150, deadline=None)
@given(said_by(*get_args(frames.ResponseFrame)), st.booleans())
@example([pack(frames.Start(10**12, []))], True)
def test_a_worker_that_says_anything_at_all_hurts_its_own_request_alone(
    said: list[bytes], begun: bool
) -> None:
    async def serve(link: Link, head: frames.Head) -> None:
        if begun:
            link.accept()
        for piece in said:
            link._transport.write(piece)
        link.close()

    async def work() -> None:
        async with unhurt() as (house, deployed):
            house.serve = serve
            with contextlib.suppress(FunctionsError, Broken):
                await Request().run(deployed)
            first = house.workers[0]
            await until(lambda: not first.alive or all(link.closed for link in first.links))
            await turns()
            house.serve = house._answer

    Loop().run(work)


@settings(max_examples=100, deadline=None)
@given(said_by(*get_args(frames.WorkerFrame)))
def test_a_worker_that_says_anything_to_its_gateway_is_replaced_at_worst(said: list[bytes]) -> None:
    async def work() -> None:
        async with unhurt() as (house, _):
            for piece in said:
                house.workers[0].door.sock.send(piece or b"\0")

    Loop().run(work)


@settings(max_examples=150, deadline=None)
@given(said_by(*get_args(frames.RequestFrame)))
def test_a_worker_takes_anything_and_ends_what_it_began(said: list[bytes]) -> None:
    async def handler(request: Any) -> str:
        return str(len(await request.body()))

    async def work() -> None:
        host, meter = Host(), Meter(Ledger(new_file(4)))
        host.application = from_handler(handler, None, 8)
        ours, theirs = socket_pair()
        link = await open_stream(theirs, lambda: WorkerLink(host, meter, 2))
        ours.setblocking(True)
        with ours:
            for piece in said:
                try:
                    ours.send(piece)
                except OSError:
                    break  # it has closed, rightly
                await asyncio.sleep(0)
        await until(lambda: link.closed and not host.in_flight)

    Loop().run(work)
