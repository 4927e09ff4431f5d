"""The engine's process: one for all functions, a child of the supervisor."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys

import msgspec

from runtime.door import Door
from runtime.engine.log import GatewayLog
from runtime.engine.memory import return_large_blocks
from runtime.engine.service import Service
from runtime.errors import ChannelError
from runtime.frames import Connect, Drain, EngineBoot, EngineControl
from runtime.process import be_nice, become, raise_file_limit

_NICE = 2  # below gateway and supervisor, above functions
_ORPHANED_S = 2.0  # nobody waits for long once the door is closed

Control = tuple[EngineControl, list[int]]


def main() -> None:
    """Run until the door closes or says `Drain`; the exit code is 0."""
    parser = argparse.ArgumentParser(prog="python -m runtime.engine")
    parser.add_argument("--fd", type=int, required=True, help="the supervisor's door")
    fd = parser.parse_args().fd
    become("engine")
    be_nice(_NICE)
    raise_file_limit()
    return_large_blocks()
    # Else texts would be tokenized by threads that all calls share, and a short call on the event
    # loop would wait there for another's long one: `Embedder` has threads of its own for those.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.basicConfig(format="engine: %(levelname)s: %(message)s", level=logging.WARNING)
    door: Door[EngineControl] = Door(socket.socket(fileno=fd), msgspec.msgpack.Decoder(EngineControl))
    try:
        (boot, _), *rest = door.wait()
    except ChannelError:
        return  # the supervisor is gone before it said anything
    assert isinstance(boot, EngineBoot)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(door, boot, rest))
        sys.stderr.flush()
        # Not sys.exit: that waits for a model that a thread is still loading or running.
        os._exit(0)


async def _run(door: Door[EngineControl], boot: EngineBoot, frames: list[Control]) -> None:
    loop = asyncio.get_running_loop()
    leaving: asyncio.Future[float] = loop.create_future()
    service = Service(boot)
    log = GatewayLog(loop, service.tell)
    logging.basicConfig(format="%(message)s", handlers=[log], level=logging.WARNING, force=True)

    def take(frame: EngineControl, fds: list[int]) -> None:
        if isinstance(frame, Connect):
            for fd in fds:
                service.connect(frame.name, fd)
        elif isinstance(frame, Drain) and not leaving.done():
            leaving.set_result(frame.seconds)

    def lost() -> None:
        if not leaving.done():
            leaving.set_result(_ORPHANED_S)

    for frame, fds in frames:
        take(frame, fds)
    door.listen(loop, take, lost)
    await service.leave(await leaving)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
