"""A real server on loopback behind the guard, and a client that speaks raw bytes to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from runtime.gateway.guard import GuardedHttpProtocol

PATIENCE_S = 10.0
"""How long a test waits for what must happen soon."""


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what can be seen but does not tell."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(mark)

    async def reply(self) -> Reply:
        """The next response, which must have a length."""
        status, *lines = (await self.until(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        async with asyncio.timeout(PATIENCE_S):
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Reply(int(status.split()[1]), headers, body)

    async def ask(self, data: bytes) -> Reply:
        await self.send(data)
        return await self.reply()

    async def rest(self) -> bytes:
        """Everything until the server closes; a reset is an error."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()


class Server:
    """Where to connect, and what the server knows."""

    def __init__(self, port: int, state: ServerState) -> None:
        self.port, self.state = port, state

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, protocol: type[GuardedHttpProtocol]) -> AsyncIterator[Server]:
    """Serve with uvicorn's protocols in the running loop."""
    config = uvicorn.Config(app, http=protocol, ws="websockets-sansio", lifespan="off", log_config=None)
    config.load()
    loop, state = asyncio.get_running_loop(), ServerState()
    listening = await loop.create_server(lambda: protocol(config, state, {}, loop), "127.0.0.1", 0)
    try:
        yield Server(listening.sockets[0].getsockname()[1], state)
    finally:
        listening.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
