"""A real engine process, as the supervisor starts one, and a client of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from runtime.channel import Stream, open_stream
from runtime.door import Door, socket_pair
from runtime.frames import (
    Catalog,
    Connect,
    Count,
    Counted,
    Embed,
    Embedded,
    EngineAnswer,
    EngineBoot,
    Rank,
    Ranked,
    Refused,
    Vectors,
    Warm,
)

_decoder = msgspec.msgpack.Decoder(EngineAnswer | Catalog)


class Result(msgspec.Struct):
    """One call's answer, put together."""

    end: Embedded
    rows: NDArray[np.float32]
    pieces: list[int]


class Client:
    """One connection to the engine; calls are made one after the other."""

    def __init__(self, stream: Stream[Any]) -> None:
        self.stream = stream
        self._id = 0

    async def embed(self, model: str, texts: list[str], **form: Any) -> Result:
        """Raises `AssertionError` with the refusal, if it is refused."""
        self._id += 1
        self.stream.send(Embed(id=self._id, model=model, texts=texts, **form))
        return await self.result(self._id)

    async def warm(self, model: str) -> Result:
        self._id += 1
        self.stream.send(Warm(self._id, model))
        return await self.result(self._id)

    async def refusal(self, model: str, texts: list[str], **form: Any) -> Refused:
        self._id += 1
        self.stream.send(Embed(id=self._id, model=model, texts=texts, **form))
        answer = await self.stream.receive()
        assert isinstance(answer, Refused)
        assert answer.id == self._id
        return answer

    async def count(self, model: str, texts: list[str]) -> list[int]:
        self._id += 1
        self.stream.send(Count(self._id, model, texts))
        answer = await self.stream.receive()
        assert isinstance(answer, Counted)
        return answer.tokens

    async def rank(self, model: str, query: str, documents: list[str]) -> Ranked:
        self._id += 1
        self.stream.send(Rank(id=self._id, model=model, query=query, documents=documents))
        answer = await self.stream.receive()
        assert isinstance(answer, Ranked), answer
        return answer

    async def result(self, id: int) -> Result:
        data: list[bytes] = []
        while True:
            answer = await self.stream.receive()
            assert answer.id == id, answer
            if isinstance(answer, Vectors):
                data.append(answer.data)
                continue
            assert isinstance(answer, Embedded), answer
            data += [answer.data] if answer.data else []
            rows = np.frombuffer(b"".join(data), dtype="<f4").reshape(-1, answer.dimensions)
            return Result(replace(answer, data=b""), rows, [len(piece) for piece in data])


class Engine:
    """The process and its door."""

    def __init__(self, process: subprocess.Popen[bytes], door: Door[Any]) -> None:
        self.process, self.door = process, door

    @asynccontextmanager
    async def connect(self, name: str = "worker") -> AsyncIterator[Client]:
        ours, theirs = socket_pair()
        self.door.send(Connect(name), [theirs.detach()])
        stream: Stream[Any] = await open_stream(ours, partial(Stream, _decoder))
        try:
            yield Client(stream)
        finally:
            stream.abort()


@contextmanager
def running_engine(models_dir: Path, *preload: str, threads: int = 2, **boot: Any) -> Iterator[Engine]:
    ours, theirs = socket_pair()
    command = [sys.executable, "-m", "runtime.engine", "--fd", str(theirs.fileno())]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=root, env=_environment()) as process:
        theirs.close()
        door: Door[Any] = Door(ours, msgspec.msgpack.Decoder(Any))
        try:
            door.send(EngineBoot(models_dir=str(models_dir), preload=list(preload), threads=threads, **boot))
            yield Engine(process, door)
        finally:
            door.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
