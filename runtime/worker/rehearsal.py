"""The template's rehearsal: a request to nobody, before the first fork.

What Python does only once (late imports, filling caches, specialising bytecode) is done
here, so that every worker inherits it and no first request waits for it. No thread is
started, and the event loop is gone before anything is forked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from runtime import frames
from runtime.channel import Stream, open_stream
from runtime.context import Call
from runtime.door import socket_pair
from runtime.errors import WorkerLimit
from runtime.ledger import Ledger, new_file
from runtime.worker import adapt
from runtime.worker.accounting import Meter
from runtime.worker.link import Link
from runtime.worker.request import Request

_TIMES = 20  # bytecode is specialised after a few calls
_answers = msgspec.msgpack.Decoder(frames.ResponseFrame)


class _Stage:
    """A worker's place in the rehearsal."""

    function = "rehearsal"
    leaving = False
    cpu_ms = 0

    def __init__(self) -> None:
        self.application = adapt.from_handler(_handler, None, 1)

    def began(self) -> None:
        """Nobody counts."""

    def ended(self) -> None:
        """Nobody counts."""

    def keep(self, call: Call, awaitable: Any) -> asyncio.Task[Any]:
        """Nothing outlives the rehearsal."""
        raise NotImplementedError

    def linger(self, call: Call, task: asyncio.Task[Any]) -> None:
        """Nothing of it goes on."""

    def explain(self, error: BaseException) -> str:
        """Only a bug of ours can get here."""
        return repr(error)

    def limit_behind(self, error: BaseException) -> WorkerLimit | None:
        """There is none."""
        return None


async def _handler(request: Request) -> Any:
    if request.method == "GET":
        return _pieces()
    return {"message": (await request.json())["name"], "auth": request.auth}


async def _pieces() -> AsyncIterator[str]:
    yield "one"
    yield "two"


def rehearse() -> None:
    """Answer a few requests of both kinds, plain and streamed.

    Not on a loop of uvloop's: its library would keep a pipe for signals, make another in every
    fork, which closes what it does not know, and abort when the function starts a program.
    """
    asyncio.run(_rehearse())


async def _rehearse() -> None:
    ours, theirs = socket_pair()
    fd = new_file(1)
    stage, meter = _Stage(), Meter(Ledger(fd))
    os.close(fd)
    meter.charge_tasks(asyncio.get_running_loop())
    await open_stream(theirs, lambda: Link(stage, meter, 0))
    gateway = await open_stream(ours, lambda: Stream(_answers))
    for method in ("POST", "GET") * _TIMES:
        gateway.send(_head(method), *([frames.Body(b'{"name": "rehearsal"}')] if method == "POST" else []))
        while True:
            frame = await gateway.receive()
            if isinstance(frame, frames.Body) and not frame.more:
                break
    gateway.close()


def _head(method: str) -> frames.Head:
    return frames.Head(
        request_id="rehearsal",
        method=method,
        path="/rehearsal",
        raw_path=b"/rehearsal",
        headers=[(b"content-type", b"application/json")],
        claims={"role": "anon"},
        more=method == "POST",
    )
