"""Processes are killed at random under load: nothing that had not begun is lost, nothing runs twice."""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from tests.running import Server, project

from .users import ME

# Every execution leaves a file of its own in the folder of marks.
MARKED = """
import asyncio, os, uuid

async def handler(request):
    name = request.query_params["mark"]
    open(f"{os.environ['MARKS']}/{name}.{uuid.uuid4()}", "w").close()
    await asyncio.sleep(0.002)
    return {"mark": name}
"""
CLIENTS, SEED = 8, 2026


class Kill(NamedTuple):
    """A process ended between these two moments."""

    before: float
    after: float


class Outcome(NamedTuple):
    """One request: `status` 0 means that the connection was refused, reset or closed."""

    mark: str
    status: int
    began: float
    ended: float
    was_run: bool
    error: str

    def saw(self, kills: list[Kill]) -> int:
        """How many processes were killed while it was on its way."""
        return sum(self.began < kill.after and kill.before < self.ended for kill in kills)


class Fixture(NamedTuple):
    server: Server
    marks: Path

    def executions(self) -> Counter[str]:
        return Counter(name.split(".")[0] for name in os.listdir(self.marks))


@pytest.fixture
def chaos() -> Iterator[Fixture]:
    with ME.folder() as folder:
        marks = folder / "marks"
        marks.mkdir()
        root = project(
            folder / "project",
            {"marked": MARKED},
            f"[ai]\npreload = []\n[functions.marked]\nmin_workers = 2\n"
            f'[edge_runtime.secrets]\nMARKS = "{marks}"\n',
        )
        marks.chmod(0o777)
        with ME.serving(root) as server:
            yield Fixture(server, marks)


def call(client: httpx2.Client, mark: str) -> Outcome:
    began = time.monotonic()
    try:
        response = client.get("/marked", params={"mark": mark})
    except httpx2.TransportError as error:
        return Outcome(mark, 0, began, time.monotonic(), False, repr(error))
    was_run = "x-relay-error" not in response.headers
    return Outcome(mark, response.status_code, began, time.monotonic(), was_run, response.text)


def call_until(server: Server, enough: Callable[[int], bool]) -> list[Outcome]:
    """Requests by several clients at once, each with a connection that it keeps.

    Args:
        enough: is told how many there were.
    """
    numbers = itertools.count()

    def next_mark() -> str:
        number = next(numbers)
        return "" if enough(number) else str(number)

    def work(_: int) -> list[Outcome]:
        with server.client() as client:
            return [call(client, mark) for mark in iter(next_mark, "")]

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [outcome for outcomes in pool.map(work, range(CLIENTS)) for outcome in outcomes]


def kill(pid: int) -> Kill:
    """Kill a process and wait until its connections are closed."""
    end = os.pidfd_open(pid)
    before = time.monotonic()
    signal.pidfd_send_signal(end, signal.SIGKILL)
    select.select([end], [], [])
    os.close(end)
    return Kill(before, time.monotonic())


@contextmanager
def killing(strike: Callable[[random.Random], None], shortest: float, longest: float) -> Iterator[None]:
    """Call `strike` again and again, after pauses of random length."""
    over, dice = threading.Event(), random.Random(SEED)

    def work() -> None:
        while not over.wait(dice.uniform(shortest, longest)):
            strike(dice)

    with ThreadPoolExecutor(1) as pool:
        struck = pool.submit(work)
        try:
            yield
        finally:
            over.set()
            struck.result()


def test_a_request_whose_worker_is_killed_is_lost_only_if_it_had_begun(chaos: Fixture) -> None:
    server = chaos.server
    kills: list[Kill] = []

    def kill_a_worker(dice: random.Random) -> None:
        workers = [pid for pid, name in server.family().items() if name == "fn:marked"]
        if workers:
            kills.append(kill(dice.choice(workers)))

    with killing(kill_a_worker, 0.02, 0.12):
        outcomes = call_until(server, lambda count: count >= 1000 and len(kills) >= 10)

    executions = chaos.executions()
    assert all(outcome.status in (200, 500) for outcome in outcomes), Counter(o.status for o in outcomes)
    for outcome in outcomes:
        if outcome.status == 200:
            assert executions[outcome.mark] == 1, outcome
        else:
            assert executions[outcome.mark] <= 1, outcome
            # Given to a second worker, and that one was killed too before it began.
            assert outcome.was_run or outcome.saw(kills) >= 2, outcome


def test_only_what_was_on_the_gateway_when_it_was_killed_is_lost(chaos: Fixture) -> None:
    server = chaos.server
    kills: list[Kill] = []
    targets = iter(["fn-gateway", "fn-engine"] * 3)  # few enough for restarts without long pauses

    def kill_one(dice: random.Random) -> None:
        name = next(targets, "")
        if not name:
            return
        death = kill(server.pid_of(name))
        if name == "fn-gateway":
            kills.append(death)

    with killing(kill_one, 0.2, 0.4):
        outcomes = call_until(server, lambda count: count >= 1000 and len(kills) == 3)

    executions = chaos.executions()
    lost = [outcome for outcome in outcomes if outcome.status != 200]
    # One connection per client can be cut by each death, and none is refused.
    assert len(lost) <= CLIENTS * len(kills)
    for outcome in lost:
        assert outcome.status == 0, outcome
        assert "refused" not in outcome.error
        assert outcome.saw(kills), (outcome, kills)
    assert max(executions.values()) == 1
    assert all(executions[outcome.mark] == 1 for outcome in outcomes if outcome.status == 200)
    with server.client() as client:
        assert call(client, "after").status == 200
