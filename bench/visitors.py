"""Visitors with different errands: plain requests, streams that they leave, uploads, WebSockets.

`python -m bench.visitors` takes a plan on stdin and writes at its end what became of the
errands. It carries them out at a fixed rate, or each visitor as fast as it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Literal

import msgspec
import uvloop

from bench.traffic import ROOT

SEED = 2026
PATIENCE_S = 30.0
RESET, CLOSED, TIMEOUT = "reset", "closed", "timeout"

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TEXT = b"Luke, I am here."
_SAYING = bytes([0x81, 0x80 | len(_TEXT), 0, 0, 0, 0]) + _TEXT  # a mask of zeros leaves it as it is
_ECHO = bytes([0x81, len(_TEXT)]) + _TEXT
_GOODBYE = bytes([0x88, 0x82, 0, 0, 0, 0]) + (1000).to_bytes(2, "big")
_SAYINGS = 3


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of visit.

    Attributes:
        payload: head and body of the request.
        weight: how often it comes, in relation to the others.
        manner: read the whole answer; leave after the first bytes of its body; or speak, hear the
            echo, and say goodbye or leave without it.
    """

    name: str
    port: int
    payload: bytes
    weight: float = 1.0
    manner: Literal["ask", "leave", "talk"] = "ask"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        visitors: how many there are, and so how many errands at a time.
        rate: errands per second of all together; 0: as fast as they are answered.
    """

    errands: list[Errand]
    visitors: int
    seconds: float
    rate: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """What became of it.

    Attributes:
        outcomes: for each errand how often each outcome came: a status such as "200", "reset",
            "closed", "timeout", or "done" where there is no answer to wait for.
        seconds: from the first errand to the end of the last.
    """

    outcomes: dict[str, dict[str, int]]
    seconds: float

    @property
    def total(self) -> int:
        """How many errands there were."""
        return sum(sum(counts.values()) for counts in self.outcomes.values())

    @property
    def rate(self) -> float:
        """Errands per second."""
        return self.total / self.seconds


class Visitor:
    """Does one errand after the other. Its connections for plain requests stay open."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def run(self, errand: Errand) -> str:
        """The outcome."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._run(errand)
        except TimeoutError:
            self._drop(errand.port)
            return TIMEOUT
        except asyncio.IncompleteReadError:
            self._drop(errand.port)
            return CLOSED
        except OSError:
            self._drop(errand.port)
            return RESET

    async def _run(self, errand: Errand) -> str:
        if errand.manner == "ask":
            return await self._ask(errand)
        reader, writer = await asyncio.open_connection("127.0.0.1", errand.port)
        try:
            writer.write(errand.payload)
            head = await reader.readuntil(b"\r\n\r\n")
            if errand.manner == "talk":
                return await _talk(reader, writer, head)
            await reader.readexactly(1)
            return _status(head)
        finally:
            writer.transport.abort() if random.random() < 0.5 else writer.close()

    async def _ask(self, errand: Errand) -> str:
        if errand.port not in self._kept:
            self._kept[errand.port] = await asyncio.open_connection("127.0.0.1", errand.port)
        reader, writer = self._kept[errand.port]
        writer.write(errand.payload)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        await reader.readexactly(int(length[1]) if length else 0)
        if b"\r\nconnection: close" in head:
            self._drop(errand.port)
        return _status(head)

    def _drop(self, port: int) -> None:
        if port in self._kept:
            self._kept.pop(port)[1].close()

    def leave(self) -> None:
        """Close what is open."""
        for port in tuple(self._kept):
            self._drop(port)


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> str:
    if _status(head) != "101":
        return _status(head)
    for _ in range(_SAYINGS):
        writer.write(_SAYING)
        if await reader.readexactly(len(_ECHO)) != _ECHO:
            return "another echo"
    if random.random() < 0.5:
        writer.write(_GOODBYE)
        await reader.read()
    return "101"


def _status(head: bytes) -> str:
    return head[9:12].decode("latin-1")


class Crowd:
    """Every visitor of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outcomes: dict[str, Counter[str]] = {errand.name: Counter() for errand in plan.errands}
        self._numbers = itertools.count()
        self._began = 0.0

    async def run(self) -> Report:
        """Carry the plan out."""
        self._began = time.monotonic()
        await asyncio.gather(*(self._visit() for _ in range(self._plan.visitors)))
        seconds = time.monotonic() - self._began
        return Report({name: dict(counts) for name, counts in self._outcomes.items()}, seconds)

    async def _visit(self) -> None:
        visitor, plan = Visitor(), self._plan
        weights = [errand.weight for errand in plan.errands]
        while (moment := self._next()) < self._began + plan.seconds:
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
            [errand] = random.choices(plan.errands, weights)
            self._outcomes[errand.name][await visitor.run(errand)] += 1
        visitor.leave()

    def _next(self) -> float:
        """When the next errand is due."""
        if not self._plan.rate:
            return time.monotonic()
        return max(self._began + next(self._numbers) / self._plan.rate, time.monotonic())


class Crew:
    """A running process of visitors."""

    def __init__(self, plan: Plan) -> None:
        command, pipe = [sys.executable, "-m", "bench.visitors"], subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe)
        assert self._process.stdin is not None
        with self._process.stdin:
            self._process.stdin.write(msgspec.msgpack.encode(plan))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float) -> None:
        """Wait for its end, for so long at most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def report(self) -> Report:
        """Wait for its end."""
        assert self._process.stdout is not None
        return msgspec.msgpack.decode(self._process.stdout.read(), type=Report)


def visit(plan: Plan) -> Report:
    """Carry out a plan, in a process of its own."""
    with Crew(plan) as crew:
        return crew.report()


def main() -> None:
    random.seed(SEED)
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.buffer.write(msgspec.msgpack.encode(runner.run(Crowd(plan).run())))


if __name__ == "__main__":
    main()
