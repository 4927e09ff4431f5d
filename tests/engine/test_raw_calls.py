"""Runs of graphs over a connection: pieces that come, do not come, or are of no use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runtime.channel import Stream, open_stream
from runtime.door import socket_pair
from runtime.engine import calls as calls_module
from runtime.engine import raw
from runtime.engine.calls import Calls, CallStream
from runtime.engine.embedder import Embedder
from runtime.engine.models.store import Store
from runtime.engine.registry import Registry
from runtime.frames import Cancel, EngineAnswer, Open, Opened, Piece, Ran, Refused, Run, Tensor
from runtime.tensors import pack, pieces

from . import graphs as made

pytestmark = pytest.mark.anyio

_ANSWERS = msgspec.msgpack.Decoder(EngineAnswer)

CARGO = pack({"x": np.arange(400_000, dtype="f4").reshape(-1, 2)})


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Stream[Any], Embedder]]:
    embedder = Embedder(Registry(Store("/nowhere", {})), threads=2)
    ours, theirs = socket_pair()
    stream = await open_stream(ours, CallStream)
    client: Stream[Any] = await open_stream(theirs, partial(Stream, _ANSWERS))
    serving = asyncio.create_task(Calls(stream, embedder).serve())
    try:
        yield client, embedder
    finally:
        client.close()
        async with asyncio.timeout(10):
            await serving
        assert not embedder.graphs.held
        embedder.close()


def asked(id: int, path: Path, tensors: list[Tensor] | None = None) -> Run:
    return Run(id=id, paths=[str(path)], tensors=CARGO[0] if tensors is None else tensors)


async def answer(client: Stream[Any], id: int) -> list[Any]:
    """The frames of one answer; none of another may come between."""
    (tensor,) = CARGO[0]
    frames = [await client.receive()]
    left = tensor.size if isinstance(frames[0], Ran) else 0
    while left:
        frames.append(await client.receive())
        left -= len(frames[-1].data)
    assert {frame.id for frame in frames} == {id}
    return frames


async def test_a_run_begins_when_all_its_pieces_are_there(tmp_path: Path) -> None:
    path = made.echo(tmp_path / "m.onnx")
    async with connected() as (client, _):
        first, *others = pieces(CARGO)
        assert others
        client.send(asked(1, path), Piece(1, first), Open(2, [str(path)]))
        assert isinstance(await client.receive(), Opened)
        client.send(*(Piece(1, piece) for piece in others))
        frames = await answer(client, 1)
        assert b"".join(frame.data for frame in frames[1:]) == bytes(CARGO[1][0])


async def test_pieces_of_a_refused_or_unknown_run_disturb_nobody(tmp_path: Path) -> None:
    path = made.echo(tmp_path / "m.onnx", "int64")
    async with connected() as (client, _):
        client.send(Piece(9, b"nobody's"), asked(1, path), *(Piece(1, piece) for piece in pieces(CARGO)))
        (refused,) = await answer(client, 1)
        assert isinstance(refused, Refused)
        assert "is of int64, and not of float32" in refused.message
        made.echo(path)
        client.send(asked(1, path), *(Piece(1, piece) for piece in pieces(CARGO)))
        assert isinstance((await answer(client, 1))[0], Ran)


async def test_more_bytes_than_announced_are_refused(tmp_path: Path) -> None:
    path = made.echo(tmp_path / "m.onnx")
    async with connected() as (client, _):
        client.send(asked(1, path, [Tensor("x", "float32", [1, 2], 8)]), Piece(1, b"123456789"))
        (refused,) = await answer(client, 1)
        assert (refused.code, "More bytes" in refused.message) == ("INVALID_INPUT", True)


@pytest.mark.parametrize("size", [1 << 40, -1])
async def test_arrays_of_impossible_sizes_are_refused(size: int, tmp_path: Path) -> None:
    path = made.echo(tmp_path / "m.onnx")
    async with connected() as (client, _):
        client.send(asked(1, path, [Tensor("x", "float32", [1, 2], size)]))
        (refused,) = await answer(client, 1)
        assert refused.code in ("INPUT_TOO_LARGE", "INVALID_INPUT")


async def test_a_run_whose_pieces_never_come_ends_with_its_cancelling_or_its_connection(
    tmp_path: Path,
) -> None:
    path = made.echo(tmp_path / "m.onnx")
    async with connected() as (client, embedder):
        client.send(asked(1, path), asked(2, path), Open(3, [str(path)]))
        await client.receive()
        (tensor,) = CARGO[0]
        assert embedder.graphs.held.total() == 2 * tensor.size
        client.send(Cancel(1), Open(3, [str(path)]))
        await client.receive()
        assert embedder.graphs.held.total() == tensor.size


async def test_an_id_in_use_again_gets_the_pieces_of_the_later_run(tmp_path: Path) -> None:
    path = made.echo(tmp_path / "m.onnx")
    async with connected() as (client, _):
        first, *_ = pieces(CARGO)
        client.send(asked(1, path), Piece(1, first))
        client.send(asked(1, path), *(Piece(1, piece) for piece in pieces(CARGO)))
        frames = await answer(client, 1)
        assert b"".join(frame.data for frame in frames[1:]) == bytes(CARGO[1][0])


async def test_a_connection_that_closes_ends_what_never_ends(tmp_path: Path) -> None:
    endless, go = made.endless(tmp_path / "m.onnx"), {"go": np.array(True), "x": np.zeros(1, np.float32)}
    cargo = pack(go)
    async with connected() as (client, embedder):
        client.send(asked(1, endless, cargo[0]), *(Piece(1, piece) for piece in pieces(cargo)))
        client.send(Open(2, [str(endless)]))
        await client.receive()
        assert embedder.graphs.held.total() == 5


async def test_a_run_whose_pieces_stay_away_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "SILENCE_S", 0.05)
    path = made.echo(tmp_path / "m.onnx")
    async with connected() as (client, embedder):
        client.send(asked(1, path), Piece(1, b"1234"))
        (refused,) = await answer(client, 1)
        assert (refused.code, "0.05 s" in refused.message) == ("INFERENCE_TIMEOUT", True)
        assert not embedder.graphs.held


async def test_one_connection_leaves_room_for_the_arrays_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tensor,), path = CARGO[0], made.echo(tmp_path / "m.onnx")
    monkeypatch.setattr(raw, "MOST_TOGETHER", 4 * tensor.size)
    async with connected() as (client, embedder):
        client.send(*(asked(id, path) for id in (1, 2, 3)))
        (refused,) = await answer(client, 3)
        assert "overloaded" in refused.message
        with embedder.graphs.room(CARGO[0], "another"):
            pass
