"""The gateway's connection to the engine: which models there are, and who may call them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from runtime import frames
from runtime.channel import Stream, open_stream
from runtime.door import Door, socket_pair
from runtime.errors import ChannelClosed

_decoder = msgspec.msgpack.Decoder(frames.EngineToGateway)


class Engine:
    """What is known of the engine, across its restarts.

    Attributes:
        models: what it can serve, as last heard.
        known: set once the first catalogue is here.
        warm: set while the engine is up and has loaded what it shall load at the start.
    """

    def __init__(
        self,
        door: Door[Any],
        on_restart: Callable[[], None],
        on_failure: Callable[[str, str], None],
        on_told: Callable[[frames.Told], None],
    ) -> None:
        self._door = door
        self._on_restart, self._on_failure, self._on_told = on_restart, on_failure, on_told
        self.models: list[frames.ModelCard] = []
        self.preloaded: list[str] = []
        self.known, self.warm = asyncio.Event(), asyncio.Event()
        self._up: Stream[frames.EngineToGateway] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def arrive(self, fd: int) -> None:
        """A new engine is there; `fd` leads to it."""
        task = asyncio.get_running_loop().create_task(self._follow(socket.socket(fileno=fd)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def connect(self) -> int | None:
        """A connection of its own for a worker: its descriptor, or None while no engine is up."""
        if self._up is None:
            return None
        ours, theirs = socket_pair()
        self._door.send(frames.Connect(), [theirs.detach()])
        return ours.detach()

    async def _follow(self, sock: socket.socket) -> None:
        stream = self._up = await open_stream(sock, lambda: Stream(_decoder))
        self.warm.clear()
        if self.known.is_set():
            self._on_restart()
        told: set[str] = set()
        try:
            while True:
                frame = await stream.receive()
                if isinstance(frame, frames.Told):
                    self._on_told(frame)
                else:
                    self._hear(frame, told)
        except ChannelClosed:
            if self._up is stream:  # else the next one is here already
                self._up = None
                self.warm.clear()

    def _hear(self, catalog: frames.Catalog, told: set[str]) -> None:
        self.models, self.preloaded = catalog.models, catalog.preloaded
        for name, message in catalog.failed.items():
            if name not in told:
                told.add(name)
                self._on_failure(name, message)
        self.known.set()
        if catalog.complete:
            self.warm.set()
