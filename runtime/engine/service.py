"""The engine as the other processes see it: connections, the catalogue, leaving."""

from __future__ import annotations

import asyncio
import logging
import socket

import msgspec

from runtime.channel import Stream, open_stream
from runtime.engine.calls import Calls, CallStream
from runtime.engine.embedder import Embedder
from runtime.engine.models.store import Store
from runtime.engine.registry import Registry
from runtime.errors import FunctionsError
from runtime.frames import Catalog, EngineBoot, EngineCall, Told
from runtime.process import cores

log = logging.getLogger("runtime.engine")

GATEWAY = "gateway"
"""The connection of this name is told which models there are, and which are warm."""

_LOOK_SECONDS = 1.0


class Service:
    """Everything between the door and the embedder. Made on a running event loop."""

    def __init__(self, boot: EngineBoot) -> None:
        self._store = Store(boot.models_dir)
        self._seen = self._store.state()
        threads = boot.threads or cores()
        models = Registry(
            self._store,
            boot.root,
            cores=threads,
            precisions=boot.precisions,
            providers=boot.providers,
            most=boot.models_bytes,
        )
        self._embedder = Embedder(models, threads)
        self._catalog = Catalog(self._store.list(), complete=not boot.preload)
        self._watchers: set[Stream[EngineCall]] = set()
        self._connections: dict[asyncio.Task[None], Calls | None] = {}
        self._preloading = asyncio.create_task(self._preload(list(dict.fromkeys(boot.preload))))
        self._watching = asyncio.create_task(self._watch())

    def connect(self, name: str, fd: int) -> None:
        """Serve the connection behind this descriptor, which is ours from now on."""
        task = asyncio.create_task(self._serve(name, socket.socket(fileno=fd)))
        self._connections[task] = None
        task.add_done_callback(self._disconnected)

    def tell(self, told: Told) -> bool:
        """Have a line in the server's log; False: no gateway is connected."""
        for stream in self._watchers:
            stream.send(told)
        return bool(self._watchers)

    async def leave(self, seconds: float) -> None:
        """Finish the calls in flight, for at most so long, and close all connections."""
        self._embedder.refuse()
        self._preloading.cancel()
        self._watching.cancel()
        calls = [connection for connection in self._connections.values() if connection]
        if running := [task for connection in calls for task in connection.running]:
            await asyncio.wait(running, timeout=seconds)
        for connection in calls:
            connection.stream.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=1)
        self._embedder.close()

    async def _serve(self, name: str, sock: socket.socket) -> None:
        stream = await open_stream(sock, CallStream)
        task = asyncio.current_task()
        assert task is not None
        calls = self._connections[task] = Calls(stream, self._embedder)
        if name == GATEWAY:
            stream.send(self._catalog)
            self._watchers.add(stream)
        try:
            await calls.serve()
        finally:
            self._watchers.discard(stream)

    def _disconnected(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection failed", exc_info=task.exception())

    async def _preload(self, names: list[str]) -> None:
        preloaded: list[str] = []
        failed: dict[str, str] = {}
        for count, name in enumerate(names, start=1):
            try:
                async with self._embedder.using(name):
                    pass
                preloaded.append(name)
            except FunctionsError as error:
                failed[name] = error.message
            except Exception as error:
                log.error("preloading %s failed", name, exc_info=error)
                failed[name] = str(error)
            self._publish(Catalog(self._store.list(), [*preloaded], {**failed}, count == len(names)))

    async def _watch(self) -> None:
        """Tell of models that come and go meanwhile, and let go of those that were replaced."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._embedder.forget_replaced()
            state = self._store.state()
            if state != self._seen:
                self._seen, models = state, self._store.list()
                if models != self._catalog.models:
                    self._publish(msgspec.structs.replace(self._catalog, models=models))

    def _publish(self, catalog: Catalog) -> None:
        self._catalog = catalog
        for stream in self._watchers:
            stream.send(catalog)
