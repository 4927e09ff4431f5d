"""From a request to a worker and back."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from starlette.types import Message

from runtime import frames
from runtime.errors import (
    BodyTimeout,
    BootError,
    IdleTimeout,
    Overloaded,
    PayloadTooLarge,
    Reported,
    WorkerError,
    WorkerLimit,
)
from runtime.gateway import crashes as crashes_module
from runtime.gateway import worker as worker_module
from runtime.gateway.deadlines import Clocks
from runtime.gateway.deployment import Deployment
from runtime.gateway.dispatch import Broken, Relay, dispatch
from runtime.gateway.exchange import Exchange
from runtime.gateway.feed import ClientGone
from runtime.gateway.generation import Generation
from runtime.gateway.metrics import Series
from runtime.ledger import _HEAD, _PER_SLOT
from runtime.project.settings import Function, Limits
from tests.gateway.house import House, Link, generation, turns, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 0.001)


class Request:
    """A client's request, and what it is answered."""

    def __init__(self, *pieces: bytes, **limits: Any) -> None:
        retry = limits.pop("retry", "never")
        self.name = limits.pop("name", "request-1")
        self.function = Function(
            name="hello", directory="/functions/hello", retry=retry, limits=Limits(**limits)
        )
        self.sent: list[Message] = []
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        for index, piece in enumerate(pieces):
            self.events.put_nowait(
                {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
            )
        headers = [(b"transfer-encoding", b"chunked")] if pieces else []
        scope = {"type": "http", "method": "POST", "headers": headers}
        self.exchange = Exchange(scope, self.events.get, self._send, "request-1", Series())

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    def leaves(self) -> None:
        self.events.put_nowait({"type": "http.disconnect"})

    async def run(self, deployed: Deployment, clocks: Clocks | None = None) -> None:
        head = frames.Head(request_id=self.name, method="POST", path="/hello", raw_path=b"/hello", headers=[])
        async with asyncio.timeout(10):
            await dispatch(self.exchange, self.function, deployed, head, clocks)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


async def deploy(house: House, **limits: Any) -> Deployment:
    deployed = Deployment("hello", 0, house.services)
    function = Function(name="hello", directory="/functions/hello", limits=Limits(**limits))
    deployed.roll(
        Generation(
            name="g1",
            function=function,
            archive=b"\x80",
            directory="/functions",
            entrypoint="hello/index.py",
            environ={},
        )
    )
    await deployed.settled.wait()
    return deployed


async def body_of(link: Link) -> bytes:
    data = b""
    while True:
        frame = await link.receive()
        assert isinstance(frame, frames.Body)
        data += frame.data
        if not frame.more:
            return data


# --- the usual life -----------------------------------------------------------------------


async def silence(link: Link, head: frames.Head) -> None:
    """A worker that takes a request, and says nothing."""
    link.accept()
    await asyncio.Event().wait()


async def test_a_request_is_answered(house: House) -> None:
    deployed = await deploy(house)
    request = Request()
    await request.run(deployed)
    assert (request.status, request.body) == (200, b"/hello")
    assert (b"sb-request-id", b"request-1") in request.sent[0]["headers"]
    (head,) = house.workers[0].heads
    assert (head.generation, head.request_id, head.more) == ("g1", "request-1", False)
    assert request.exchange.accepted


async def test_a_request_leaves_nothing_to_the_garbage_collector(house: House) -> None:
    deployed = await deploy(house)
    gc.collect()
    gc.disable()
    try:
        await Request().run(deployed)
        await turns()
        assert not [one for one in gc.get_objects() if isinstance(one, Relay)]
    finally:
        gc.enable()


async def test_one_connection_serves_many_requests(house: House) -> None:
    deployed = await deploy(house)
    for _ in range(10):
        await Request().run(deployed)
    assert len(house.workers[0].links) == 1
    assert deployed.pool is not None
    assert deployed.pool.in_flight == 0
    assert deployed.pool.workers[0].served == 10


async def test_requests_at_the_same_time_have_connections_of_their_own(house: House) -> None:
    deployed = await deploy(house)
    go = asyncio.Event()

    async def serve(link: Link, head: frames.Head) -> None:
        await go.wait()
        link.answer()

    house.serve = serve
    running = [asyncio.create_task(Request().run(deployed)) for _ in range(5)]
    await until(lambda: len(house.workers[0].heads) == 5)
    go.set()
    await asyncio.gather(*running)
    assert len(house.workers[0].links) == 5
    assert len({link.slot for link in house.workers[0].links}) == 5


async def test_a_body_reaches_the_worker(house: House) -> None:
    deployed = await deploy(house)

    async def echo(link: Link, head: frames.Head) -> None:
        link.accept()
        data = await body_of(link)
        link.send(frames.Start(200, []), frames.Body(data))

    house.serve = echo
    request = Request(b"hel", b"lo")
    await request.run(deployed)
    assert request.body == b"hello"


async def test_a_stream_reaches_the_client_piece_by_piece(house: House) -> None:
    deployed = await deploy(house)
    more = asyncio.Event()

    async def tick(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(200, []), frames.Body(b"one", True))
        await more.wait()
        link.send(frames.Body(b"two", False))

    house.serve = tick
    request = Request()
    running = asyncio.create_task(request.run(deployed))
    await until(lambda: len(request.sent) == 2)
    assert request.sent[1] == {"type": "http.response.body", "body": b"one", "more_body": True}
    more.set()
    await running
    assert request.sent[2] == {"type": "http.response.body", "body": b"two", "more_body": False}


async def test_a_connection_whose_body_was_not_sent_to_its_end_is_not_used_again(house: House) -> None:
    deployed = await deploy(house)
    request = Request(b"a", b"b")
    request.events.get_nowait()
    request.events.get_nowait()
    request.events.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
    await request.run(deployed)  # answered although the client has more to send
    assert request.status == 200
    await until(lambda: house.workers[0].links[0].closed)
    await Request().run(deployed)
    assert len(house.workers[0].links) == 2


async def test_a_broken_kept_connection_is_passed_over(house: House) -> None:
    deployed = await deploy(house)
    await Request().run(deployed)
    house.workers[0].links[0].abort()
    assert deployed.pool is not None
    stream = deployed.pool.workers[0].idle[0]
    await until(lambda: stream.closed)
    request = Request()
    await request.run(deployed)
    assert request.status == 200
    assert house.kills == []


# --- failures -----------------------------------------------------------------------------


async def test_a_failure_is_reported_by_its_code_and_the_connection_is_kept(house: House) -> None:
    deployed = await deploy(house)

    async def fail(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Failure("INVALID_RESPONSE", "no response"))

    house.serve = fail
    for _ in range(2):
        with pytest.raises(Reported, match="no response") as reported:
            await Request().run(deployed)
        assert reported.value.code == "INVALID_RESPONSE"
    assert len(house.workers[0].links) == 1


async def test_a_failure_after_the_beginning_breaks_the_response(house: House) -> None:
    deployed = await deploy(house)

    async def fail(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(200, []), frames.Body(b"one", True), frames.Failure("WORKER_ERROR", "x"))

    house.serve = fail
    request = Request()
    with pytest.raises(Broken):
        await request.run(deployed)
    assert request.sent[-1]["more_body"]


async def test_a_worker_that_dies_in_the_middle_breaks_the_response(house: House) -> None:
    deployed = await deploy(house)

    async def die(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(200, []), frames.Body(b"one", True))
        await turns()
        link.worker.die(-9)

    house.serve = die
    with pytest.raises(Broken):
        await Request().run(deployed)


async def test_a_function_that_does_not_start_is_a_boot_error(house: House) -> None:
    house.on_boot = lambda worker: worker.fail("broken")
    deployed = await deploy(house)
    with pytest.raises(BootError):
        await Request().run(deployed)


async def test_a_function_that_says_nothing_in_time_is_ended(house: House) -> None:
    deployed = await deploy(house, idle_s=0.05)

    house.serve = silence
    with pytest.raises(IdleTimeout, match=r"within 0\.05 s \(idle_s\)"):
        await Request().run(deployed)
    await until(lambda: house.workers[0].links[0].closed)
    assert deployed.pool is not None
    assert deployed.pool.in_flight == 0


async def test_a_stream_that_falls_silent_is_broken_off(house: House) -> None:
    deployed = await deploy(house, idle_s=0.05)

    async def stalls(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(200, []), frames.Body(b"one", True))
        await asyncio.Event().wait()

    house.serve = stalls
    request = Request()
    with pytest.raises(Broken, match=r"nothing more for 0\.05 s \(idle_s\)"):
        await request.run(deployed)
    assert (request.body, request.exchange.code) == (b"one", "IDLE_TIMEOUT")
    await until(lambda: house.workers[0].links[0].closed)


async def test_a_stream_that_goes_on_may_last_longer_than_one_silence(house: House) -> None:
    deployed = await deploy(house, idle_s=0.1)

    async def slow(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(200, []))
        for _ in range(8):
            await asyncio.sleep(0.02)
            link.send(frames.Body(b".", True))
        link.send(frames.Body(b"", False))

    house.serve = slow
    request = Request()
    await request.run(deployed)
    assert request.body == b"........"


async def test_a_client_that_does_not_read_is_no_silence_of_the_function(house: House) -> None:
    deployed = await deploy(house, idle_s=0.05)
    request, taken = Request(), asyncio.Event()

    async def send(message: Any) -> None:
        request.sent.append(message)
        if message.get("body"):
            await taken.wait()

    async def sends(link: Link, head: frames.Head) -> None:
        link.answer(b"read me later")

    request.exchange._send = send
    house.serve = sends
    running = asyncio.create_task(request.run(deployed))
    await until(lambda: len(request.sent) == 2)
    await asyncio.sleep(0.1)
    taken.set()
    await running
    assert request.body == b"read me later"


async def test_a_function_that_does_not_finish_in_time_is_ended(house: House) -> None:
    deployed = await deploy(house, timeout_s=0.05)

    house.serve = silence
    with pytest.raises(WorkerLimit, match=r"within 0\.05 s \(timeout_s\)"):
        await Request().run(deployed)
    await until(lambda: house.workers[0].links[0].closed)


async def test_a_stream_that_does_not_end_in_time_is_broken_off(house: House) -> None:
    deployed = await deploy(house, timeout_s=0.1)

    async def endless(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(200, []))
        while not link.lost:
            link.send(frames.Body(b".", True))
            await asyncio.sleep(0.01)

    house.serve = endless
    request = Request()
    with pytest.raises(Broken, match=r"\(timeout_s\)"):
        await request.run(deployed)
    assert request.exchange.code == "WORKER_LIMIT"
    assert request.sent[-1].get("more_body") is not False


async def test_the_worker_is_told_when_the_time_is_up(house: House) -> None:
    deployed = await deploy(house, timeout_s=30)
    before = time.monotonic()
    await Request().run(deployed)
    (head,) = house.workers[0].heads
    assert before + 30 <= head.deadline <= time.monotonic() + 30


@pytest.mark.parametrize(
    ("limits", "key"), [({"idle_s": 0.05}, "idle_s"), ({"timeout_s": 0.05}, "timeout_s")]
)
async def test_a_body_that_stays_away_is_the_clients_fault(
    house: House, limits: dict[str, float], key: str
) -> None:
    deployed = await deploy(house, **limits)

    async def reads(link: Link, head: frames.Head) -> None:
        link.accept()
        await body_of(link)

    house.serve = reads
    request = Request(b"a piece", b"")
    request.events.get_nowait()
    request.events.get_nowait()
    request.events.put_nowait({"type": "http.request", "body": b"a piece", "more_body": True})
    with pytest.raises(BodyTimeout, match=key) as raised:
        await request.run(deployed)
    assert raised.value.limit == key


async def test_a_body_that_keeps_coming_is_no_silence(house: House) -> None:
    deployed = await deploy(house, idle_s=0.1)

    async def reads(link: Link, head: frames.Head) -> None:
        link.accept()
        data = await body_of(link)
        link.send(frames.Start(200, []), frames.Body(data))

    async def dribble() -> None:
        for index in range(8):
            await asyncio.sleep(0.02)
            request.events.put_nowait({"type": "http.request", "body": b".", "more_body": index < 7})

    house.serve = reads
    request = Request(b"")
    request.events.get_nowait()
    dribbling = asyncio.create_task(dribble())
    await request.run(deployed)
    await dribbling
    assert request.body == b"........"


async def test_a_request_may_have_limits_of_its_own(house: House) -> None:
    deployed = await deploy(house)

    house.serve = silence
    with pytest.raises(WorkerLimit):
        await Request().run(deployed, Clocks(Limits(timeout_s=0.02)))


async def test_places_that_a_worker_says_are_taken_are_not_given_away(house: House) -> None:
    deployed = await deploy(house, concurrency=2)
    await Request().run(deployed)
    assert deployed.pool is not None
    (worker,) = deployed.pool.workers
    house.workers[0].door.send(frames.Held(2))
    await until(lambda: not worker.free)
    waiting = asyncio.create_task(Request().run(deployed))
    await until(lambda: deployed.pool is not None and deployed.pool.queued == 1)
    house.workers[0].door.send(frames.Held(1))
    await waiting


async def test_what_a_blocked_worker_has_not_begun_with_goes_to_another_and_is_served_once(
    house: House,
) -> None:
    deployed = await deploy(house, min_workers=2)
    pool = deployed.pool
    assert pool is not None
    await until(lambda: len(pool.workers) == 2)
    begun: list[tuple[int, str]] = []
    go_on = asyncio.Event()

    async def serve(link: Link, head: frames.Head) -> None:
        if link.worker is house.workers[0] and not go_on.is_set():
            await go_on.wait()
        if link.worker.ledger.begin(link.slot):
            begun.append((link.worker.pid, head.path))
            link.answer()

    house.serve = serve
    requests = [Request() for _ in range(6)]
    running = [asyncio.create_task(request.run(deployed)) for request in requests]
    await until(lambda: len(house.workers[0].heads) == 3)
    pool.workers[0].block()
    await asyncio.gather(*running)
    assert [pid for pid, _ in begun] == [house.workers[1].pid] * 6
    assert sum(request.exchange.series.retries for request in requests) == 3
    assert house.kills == []
    go_on.set()  # it goes on, and finds that they were taken back
    await turns()
    assert len(begun) == 6
    assert pool.in_flight == 0


async def test_what_the_only_worker_has_not_begun_with_waits_for_it(house: House) -> None:
    deployed = await deploy(house, max_workers=1)
    pool = deployed.pool
    assert pool is not None
    go_on = asyncio.Event()

    async def serve(link: Link, head: frames.Head) -> None:
        await go_on.wait()
        link.answer()

    house.serve = serve
    request = Request()
    running = asyncio.create_task(request.run(deployed))
    await until(lambda: house.workers[0].heads)
    pool.workers[0].block()
    await turns()
    go_on.set()
    await running
    assert request.exchange.series.retries == 0


async def test_a_request_whose_beginning_is_seen_late_is_left_to_who_began(house: House) -> None:
    """Its worker has read that it may before that changed; what it wrote then is seen a moment later."""
    deployed = await deploy(house, min_workers=2)
    pool = deployed.pool
    assert pool is not None
    await until(lambda: len(pool.workers) == 2)
    go_on = asyncio.Event()

    async def serve(link: Link, head: frames.Head) -> None:
        await go_on.wait()
        await turns(5)
        link.worker.ledger.words[_HEAD + _PER_SLOT * link.slot] = 1
        await asyncio.sleep(0.01)
        link.send(frames.Accepted(), frames.Start(200, []), frames.Body(b"once"))

    house.serve = serve
    request = Request()
    running = asyncio.create_task(request.run(deployed))
    await until(lambda: house.workers[0].heads)
    go_on.set()
    pool.workers[0].block()
    await running
    assert (request.body, request.exchange.series.retries) == (b"once", 0)
    assert not house.workers[1].heads


@pytest.mark.parametrize("way", ["death", "block"])
async def test_requests_that_come_back_are_served_before_those_that_came_after_them(
    house: House, way: str
) -> None:
    deployed = await deploy(house, concurrency=2, queue=2, max_workers=2)
    pool = deployed.pool
    assert pool is not None
    begun: list[str] = []

    async def serve(link: Link, head: frames.Head) -> None:
        if link.worker is house.workers[0]:
            await asyncio.Event().wait()
        begun.append(head.request_id)
        link.answer()

    house.serve = serve
    house.on_boot = lambda worker: None
    running = [asyncio.create_task(Request(name=name).run(deployed)) for name in "abcd"]
    await until(lambda: len(house.workers[0].heads) == pool.queued == 2)
    if way == "block":
        pool.attend()
        await until(lambda: len(house.workers) == 2)
        pool.workers[0].block()
    else:
        house.workers[0].die()
        await until(lambda: len(house.workers) == 2)
    await until(lambda: pool.queued == 4)
    house.workers[1].ready()
    await asyncio.gather(*running)
    assert begun == ["a", "b", "c", "d"]


async def test_a_request_that_is_begun_in_the_moment_it_is_taken_back_is_left_to_who_began(
    house: House,
) -> None:
    deployed = await deploy(house, min_workers=2)
    pool = deployed.pool
    assert pool is not None
    await until(lambda: len(pool.workers) == 2)

    async def serve(link: Link, head: frames.Head) -> None:
        link.mark()
        stream = pool.workers[0].carried()[0]
        stream.withdraw()
        stream.take_back()
        link.answer(b"once")

    house.serve = serve
    request = Request()
    await request.run(deployed)
    assert (request.body, request.exchange.series.retries) == (b"once", 0)

    async def refuse(link: Link, head: frames.Head) -> None:
        if link.worker is house.workers[0]:
            link.abort()
        else:
            link.answer(b"elsewhere")

    house.serve = refuse
    request = Request()
    await request.run(deployed)  # over the same connection, which says nothing of the one before
    assert (request.body, request.exchange.series.retries) == (b"elsewhere", 1)


async def test_a_spoiled_worker_gets_no_more_requests_and_is_replaced(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_SPOILED_S", 0.02)
    deployed = await deploy(house)
    await Request().run(deployed)
    house.workers[0].door.send(frames.Spoiled("a thread does not end"))
    await until(lambda: "a thread does not end" in house.log)
    await Request().run(deployed)
    assert len(house.workers[1].heads) == 1
    await until(lambda: house.kills == [house.workers[0].pid])


async def test_a_spoiled_worker_that_has_settled_in_time_leaves_as_others_do(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_SPOILED_S", 0.3)
    deployed = await deploy(house)
    await Request().run(deployed)
    former = house.workers[0]
    former.door.send(frames.Spoiled("a thread goes on"))
    former.door.send(frames.Settled())
    former.door.send(frames.Settled())  # it leaves once
    await until(lambda: former.drains)
    await Request().run(deployed)
    assert len(house.workers[1].heads) == 1
    await asyncio.sleep(0.4)  # longer than it would have had
    assert house.kills == []
    assert (deployed.series.restarts, deployed.series.retired) == (0, 1)


async def test_a_worker_that_tells_of_its_state_all_the_time_is_ended_and_the_log_says_why(
    house: House,
) -> None:
    await deploy(house)
    for _ in range(1000):
        house.workers[0].door.send(frames.Held(1))
    await until(lambda: house.kills)
    assert "the worker is ended: it tells of its state more often than its requests explain" in house.log


async def test_a_worker_may_tell_of_much_work_that_one_request_left_behind(house: House) -> None:
    deployed = await deploy(house)
    await Request().run(deployed)
    for number in range(100):
        house.workers[0].door.send(frames.Held(number % 2))
    house.workers[0].door.send(frames.Held(7))
    assert deployed.pool is not None
    (worker,) = deployed.pool.workers
    await until(lambda: worker.held == 7)
    assert house.kills == []


async def test_a_body_over_the_limit_breaks_a_response_that_has_begun_and_says_why(house: House) -> None:
    deployed = await deploy(house)

    async def serve(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(200, []), frames.Body(b"one", True))

    house.serve = serve
    request = Request(b"a", b"b", max_body_mb=0.000_001)
    late = request.events.get_nowait(), request.events.get_nowait()
    running = asyncio.create_task(request.run(deployed))
    await until(lambda: len(request.sent) == 2)
    for event in late:
        request.events.put_nowait(event)
    with pytest.raises(Broken, match="max_body_mb"):
        await running
    assert (request.exchange.code, request.exchange.limit) == ("PAYLOAD_TOO_LARGE", "max_body_mb")


async def test_a_body_over_the_limit_is_refused_and_the_worker_lives_on(house: House) -> None:
    deployed = await deploy(house)
    request = Request(bytes(600), bytes(600), max_body_mb=0.001)
    with pytest.raises(PayloadTooLarge):
        await request.run(deployed)
    assert request.sent == []
    assert house.kills == []
    assert deployed.pool is not None
    assert deployed.pool.in_flight == 0


async def test_a_client_that_leaves_ends_its_request_alone(house: House) -> None:
    deployed = await deploy(house)

    house.serve = silence
    request = Request()
    running = asyncio.create_task(request.run(deployed))
    await until(lambda: house.workers[0].heads)
    request.leaves()
    with pytest.raises(ClientGone):
        await running
    await until(lambda: house.workers[0].links[0].closed)
    assert house.kills == []


# --- retries ------------------------------------------------------------------------------


class Fates:
    """What befalls the first workers that get a request; later ones answer it."""

    def __init__(self, house: House, *fates: str) -> None:
        self.fates = list(fates)
        self.bodies: list[bytes] = []
        house.serve = self.serve

    async def serve(self, link: Link, head: frames.Head) -> None:
        fate = self.fates.pop(0) if self.fates else "answers"
        if fate == "dies right after":
            link.mark()
        elif fate != "dies before":
            link.accept()
        if fate == "reads and dies" and head.more:
            self.bodies.append(await body_of(link))
        if fate != "answers":
            link.worker.die(-9)
            return
        if head.more:
            self.bodies.append(await body_of(link))
        link.send(frames.Start(200, []), frames.Body(b"answered"))


async def test_a_request_whose_worker_died_before_accepting_it_is_given_to_another(house: House) -> None:
    deployed = await deploy(house)
    fates = Fates(house, "dies before")
    request = Request(b"some", b"body")
    await request.run(deployed)
    assert request.body == b"answered"
    assert fates.bodies == [b"somebody"]
    assert len(house.workers) == 2


async def test_it_is_given_to_another_once(house: House) -> None:
    deployed = await deploy(house)
    Fates(house, "dies before", "dies before")
    request = Request()
    with pytest.raises(WorkerError):
        await request.run(deployed)
    assert not request.exchange.accepted
    assert len(house.workers) <= 3


async def test_a_request_that_was_accepted_is_not_given_to_another(house: House) -> None:
    deployed = await deploy(house)
    Fates(house, "dies after")
    request = Request()
    with pytest.raises(WorkerError):
        await request.run(deployed)
    assert request.exchange.accepted
    assert sum(len(worker.heads) for worker in house.workers) == 1


async def test_a_mark_is_enough_for_having_accepted(house: House) -> None:
    """The frame may never have left the worker."""
    deployed = await deploy(house)
    Fates(house, "dies right after")
    with pytest.raises(WorkerError):
        await Request().run(deployed)
    assert sum(len(worker.heads) for worker in house.workers) == 1


async def test_the_mark_of_an_earlier_request_says_nothing_of_the_next(house: House) -> None:
    deployed = await deploy(house)
    await Request().run(deployed)
    Fates(house, "dies before")
    request = Request()
    await request.run(deployed)
    assert request.body == b"answered"
    assert house.workers[0].links[0].slot == 0


async def test_what_is_repeatable_is_given_to_another_even_after_accepting(house: House) -> None:
    deployed = await deploy(house)
    fates = Fates(house, "reads and dies")
    request = Request(b"some", b"body", retry="idempotent")
    await request.run(deployed)
    assert request.body == b"answered"
    assert fates.bodies == [b"somebody", b"somebody"]


async def test_what_is_repeatable_but_too_large_to_keep_is_not(house: House) -> None:
    deployed = await deploy(house)
    Fates(house, "reads and dies")
    with pytest.raises(WorkerError):
        await Request(*[bytes(32 * 1024)] * 4, retry="idempotent").run(deployed)


async def test_a_body_that_comes_meanwhile_is_whole_for_the_third_worker(house: House) -> None:
    deployed = await deploy(house, min_workers=3)
    pool = deployed.pool
    assert pool is not None
    await until(lambda: len(pool.workers) == 3)
    request, links, arrived = Request(retry="idempotent"), list[Link](), list[bytes]()
    pieces = [bytes([number]) * 30_000 for number in range(5)]

    def sends(piece: bytes, *, more: bool = True) -> None:
        request.events.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    async def serve(link: Link, head: frames.Head) -> None:
        links.append(link)
        if len(links) == 1:
            link.accept()
            await link.receive()
            link.worker.die(-9)
        elif len(links) == 3:
            link.accept()
            arrived.append(await body_of(link))
            link.send(frames.Start(200, []), frames.Body(b""))

    house.serve = serve
    request.exchange.scope["headers"] = [(b"transfer-encoding", b"chunked")]
    sends(pieces[0])
    running = asyncio.create_task(request.run(deployed))
    await until(lambda: len(links) == 2)
    for piece in pieces[1:]:
        sends(piece)
    await turns()
    next(one for one in pool.workers if one.pid == links[1].worker.pid).block()
    await until(lambda: len(links) == 3)
    sends(b"end", more=False)
    await running
    assert arrived == [b"".join(pieces) + b"end"]


async def test_a_worker_that_says_falsely_that_it_began_does_not_shorten_the_body_for_another(
    house: House,
) -> None:
    deployed = await deploy(house)
    bodies: list[bytes] = []

    async def serve(link: Link, head: frames.Head) -> None:
        link.send(frames.Accepted())
        bodies.append(await body_of(link))
        link.worker.die(-9)

    house.serve = serve
    with pytest.raises(WorkerError):
        await Request(b"some", b"body").run(deployed)
    assert bodies == [b"somebody"]


async def test_a_function_that_was_called_once_is_not_said_to_have_never_been(house: House) -> None:
    deployed = await deploy(house)
    Fates(house, "dies after", "dies before")
    request = Request(retry="idempotent")
    with pytest.raises(WorkerError):
        await request.run(deployed)
    assert request.exchange.accepted
    assert sum(len(worker.heads) for worker in house.workers) == 2


async def test_what_is_repeatable_does_not_cost_the_other_requests_their_worker(house: House) -> None:
    deployed = await deploy(house)
    began, go = asyncio.Event(), asyncio.Event()
    calls = 0

    async def serve(link: Link, head: frames.Head) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            began.set()
            await go.wait()
        elif calls == 2:
            link.accept()
            link.abort()
            return
        link.answer()

    house.serve = serve
    slow, broken = Request(), Request(retry="idempotent")
    running = asyncio.create_task(slow.run(deployed))
    await began.wait()
    await broken.run(deployed)
    go.set()
    await running
    assert (slow.status, broken.status) == (200, 200)
    assert house.kills == []


async def test_a_worker_that_leaves_may_refuse_and_is_not_ended_for_it(house: House) -> None:
    deployed = await deploy(house)
    house.on_drain = lambda worker: None

    async def refuse(link: Link, head: frames.Head) -> None:
        await until(lambda: link.worker.drains)
        house.serve = house._answer
        link.abort()

    house.serve = refuse
    request = Request()
    running = asyncio.create_task(request.run(deployed))
    await until(lambda: house.workers[0].heads)
    deployed.roll(generation("g2"))
    await running
    assert request.status == 200
    assert len(house.workers[1].heads) == 1
    assert house.kills == []


async def test_a_system_without_descriptors_to_spare_is_overloaded_and_the_worker_lives_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = await deploy(house)
    assert deployed.pool is not None
    worker = deployed.pool.workers[0]
    worker.idle.pop().abort()

    async def refuse() -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "open", refuse)
        with pytest.raises(Overloaded):
            await Request().run(deployed)
    assert house.kills == []
    request = Request()
    await request.run(deployed)
    assert request.body == b"/hello"
    assert deployed.pool.workers == [worker]


async def test_slots_are_given_back_whatever_happens(house: House) -> None:
    deployed = await deploy(house, concurrency=1)
    for fate in ("dies before", "dies after", "reads and dies"):
        Fates(house, fate)
        await asyncio.gather(Request().run(deployed), return_exceptions=True)
    house.serve = house._answer
    request = Request()
    await request.run(deployed)
    assert request.status == 200
    assert deployed.pool is not None
    assert deployed.pool.in_flight == 0


# --- a worker that is stopped for a limit -------------------------------------------------


async def condemned(house: House, *, blamed: bool) -> list[Any]:
    """What three requests get: two that were begun, and one that was not."""
    deployed, culprit = await deploy(house), 0

    async def serve(link: Link, head: frames.Head) -> None:
        if link.worker is not house.workers[0]:
            link.answer(b"elsewhere")
        elif len(link.worker.heads) <= 2:
            link.accept()

    house.serve = serve
    requests = [Request() for _ in range(3)]
    tasks = [asyncio.create_task(request.run(deployed)) for request in requests]
    await until(lambda: house.workers and len(house.workers[0].heads) == 3)
    await turns()
    assert deployed.pool is not None
    worker = deployed.pool.workers[0]
    carried = worker.carried_on(culprit) if blamed else None
    worker.condemn(
        WorkerLimit("too much (cpu_ms)"), "another took too much (cpu_ms)" if blamed else "", carried
    )
    await until(lambda: house.kills)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return [outcome or request.body for outcome, request in zip(outcomes, requests, strict=True)]


async def test_the_culprit_learns_of_the_limit_and_those_beside_it_of_the_cause(house: House) -> None:
    first, second, third = await condemned(house, blamed=True)
    assert (type(first), str(first)) == (WorkerLimit, "too much (cpu_ms)")
    assert (type(second), str(second)) == (
        WorkerError,
        "The function's worker was stopped: another took too much (cpu_ms)",
    )
    assert third == b"elsewhere"


async def test_where_nobody_is_known_to_be_to_blame_all_learn_of_the_limit(house: House) -> None:
    first, second, third = await condemned(house, blamed=False)
    assert str(first) == str(second) == "too much (cpu_ms)"
    assert third == b"elsewhere"
