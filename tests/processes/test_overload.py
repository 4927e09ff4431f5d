"""More requests than a function has room for: some wait in turn, the others are told so at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.conformance.wire import Wire, is_whole
from tests.running import Server, eventually, project, serving

QUEUE = 12
CONFIG = f"""
[ai]
preload = []
[functions.narrow]
concurrency = 1
max_workers = 1
queue = {QUEUE}
"""
NARROW = """
import itertools

calls = itertools.count()


async def handler(request):
    call = next(calls)
    await request.body()
    return call
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = project(tmp_path_factory.mktemp("overload"), {"narrow": NARROW}, CONFIG)
    with serving(root) as server:
        yield server


@pytest.fixture
def wires(server: Server) -> Iterator[list[Wire]]:
    """Connections that are open before the first request is sent on one of them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Wire(server))) for _ in range(2 * QUEUE)]


def queued(server: Server) -> int:
    return int(server.metric()["functions"]["narrow"]["queued"])


def wait_for_queue(server: Server, count: int) -> None:
    eventually(lambda: queued(server) == count, f"{count} in the queue")


def ask(wire: Wire) -> None:
    wire.ask("POST", "/functions/v1/narrow", body=b"whole")


@pytest.fixture
def full(server: Server, wires: list[Wire]) -> tuple[Wire, list[Wire], list[Wire]]:
    """Who is served and not done yet, who waits, in the order of their coming, and who is left."""
    first, waiting, left = wires[0], wires[1 : QUEUE + 1], wires[QUEUE + 1 :]
    first.send(first.head_of("POST", "/functions/v1/narrow", length=1))
    eventually(lambda: server.metric()["functions"]["narrow"]["in_flight"] == 1, "the first")
    for number, wire in enumerate(waiting, 1):
        ask(wire)
        wait_for_queue(server, number)
    return first, waiting, left


def test_those_who_wait_are_called_in_the_order_of_their_coming(
    full: tuple[Wire, list[Wire], list[Wire]],
) -> None:
    first, waiting, _ = full
    first.send(b".")
    calls = [wire.answer() for wire in (first, *waiting)]
    assert {answer.status for answer in calls} == {200}
    numbers = [int(answer.body) for answer in calls]
    assert numbers == list(range(numbers[0], numbers[0] + 1 + QUEUE))


def test_the_surplus_is_told_at_once_when_to_come_again_and_may_stay_connected(
    full: tuple[Wire, list[Wire], list[Wire]], server: Server
) -> None:
    first, waiting, left = full
    for wire in left:
        asked = time.monotonic()
        ask(wire)
        answer = wire.answer()
        assert time.monotonic() - asked < 1.0  # `python -m bench overload` says how soon
        is_whole(answer.json(), answer.status, "OVERLOADED", answer.headers)
        assert "queue" in answer.json()["message"]
        assert int(answer.headers["retry-after"]) >= 1
    assert queued(server) == QUEUE
    first.send(b".")
    assert {wire.answer().status for wire in (first, *waiting)} == {200}
    for wire in left:
        ask(wire)
        assert wire.answer().status == 200


def test_a_place_of_one_who_leaves_the_queue_is_free_for_the_next(
    full: tuple[Wire, list[Wire], list[Wire]], server: Server
) -> None:
    first, waiting, (late, *_) = full
    waiting[3].reset()
    wait_for_queue(server, QUEUE - 1)
    ask(late)
    wait_for_queue(server, QUEUE)
    first.send(b".")
    staying = [wire for wire in (first, *waiting, late) if wire is not waiting[3]]
    numbers = [int(wire.answer().body) for wire in staying]
    assert numbers == list(range(numbers[0], numbers[0] + len(staying)))
