"""The gateway's connection to the engine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import msgspec
import pytest

from runtime import frames
from runtime.channel import Stream, open_stream
from runtime.door import Door, socket_pair
from runtime.gateway.engine import Engine
from tests.gateway.house import turns, until

pytestmark = pytest.mark.anyio

GTE = frames.ModelCard("gte-small", 384, 512)


class Stage:
    """An engine's place in the gateway, with the engine and the supervisor played by the test."""

    def __init__(self) -> None:
        ours, theirs = socket_pair()
        self.restarts = 0
        self.failures: list[tuple[str, str]] = []
        self.door: Door[object] = Door(ours, msgspec.msgpack.Decoder(object))
        self.supervisor = Door(theirs, msgspec.msgpack.Decoder(frames.GatewayToSupervisor))
        self.lines: list[frames.Told] = []
        self.engine = Engine(
            self.door,
            self._restarted,
            lambda name, why: self.failures.append((name, why)),
            self.lines.append,
        )
        self.peers: list[Stream[object]] = []

    def _restarted(self) -> None:
        self.restarts += 1

    async def up(self) -> Stream[object]:
        """A (new) engine is there."""
        ours, theirs = socket_pair()
        peer = await open_stream(ours, lambda: Stream(msgspec.msgpack.Decoder(object)))
        self.peers.append(peer)
        self.engine.arrive(theirs.detach())
        await turns()
        return peer


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    for peer in stage.peers:
        peer.abort()
    await turns()
    stage.door.close()
    stage.supervisor.close()


async def test_the_models_are_known_once_the_engine_has_told_them(stage: Stage) -> None:
    peer = await stage.up()
    assert not stage.engine.known.is_set()
    peer.send(frames.Catalog([GTE]))
    await stage.engine.known.wait()
    assert (stage.engine.models, stage.engine.preloaded) == ([GTE], [])
    assert not stage.engine.warm.is_set()
    peer.send(frames.Catalog([GTE], ["gte-small"], {}, True))
    await stage.engine.warm.wait()
    assert stage.engine.preloaded == ["gte-small"]
    assert stage.restarts == 0


async def test_a_model_that_does_not_load_is_told_of_once(stage: Stage) -> None:
    peer = await stage.up()
    peer.send(frames.Catalog([GTE], [], {"bad": "no such file"}))
    peer.send(frames.Catalog([GTE], [], {"bad": "no such file", "worse": "no weights"}, True))
    await stage.engine.warm.wait()
    assert stage.failures == [("bad", "no such file"), ("worse", "no weights")]


async def test_what_the_engine_logs_is_handed_on(stage: Stage) -> None:
    peer = await stage.up()
    line = frames.Told("warning", "texts alone do not get all cores")
    peer.send(frames.Catalog([GTE], [], {}, True), line)
    await until(lambda: stage.lines)
    assert stage.lines == [line]


async def test_a_worker_is_connected_through_the_supervisor(stage: Stage) -> None:
    assert stage.engine.connect() is None
    await stage.up()
    fd = stage.engine.connect()
    assert fd is not None
    ((frame, fds),) = stage.supervisor.receive()
    assert frame == frames.Connect()
    os.write(fds[0], b"through")
    assert os.read(fd, 10) == b"through"
    os.close(fd)
    os.close(fds[0])


async def test_without_an_engine_nobody_is_connected(stage: Stage) -> None:
    peer = await stage.up()
    peer.send(frames.Catalog([GTE], [], {}, True))
    await stage.engine.warm.wait()
    peer.abort()
    await until(lambda: not stage.engine.warm.is_set())
    assert stage.engine.connect() is None
    assert stage.engine.models == [GTE]  # what it can do is not forgotten


async def test_a_new_engine_is_told_of_and_used(stage: Stage) -> None:
    peer = await stage.up()
    peer.send(frames.Catalog([GTE], [], {}, True))
    await stage.engine.warm.wait()
    peer.abort()
    await until(lambda: not stage.engine.warm.is_set())
    peer = await stage.up()
    assert stage.restarts == 1
    peer.send(frames.Catalog([], [], {}, True))
    await stage.engine.warm.wait()
    assert stage.engine.models == []
    fd = stage.engine.connect()
    assert fd is not None
    os.close(fd)
    ((_, fds),) = stage.supervisor.receive()
    os.close(fds[0])


async def test_the_end_of_an_engine_that_was_replaced_already_changes_nothing(stage: Stage) -> None:
    """Both are told on different sockets: the end may be heard of last."""
    old = await stage.up()
    old.send(frames.Catalog([GTE], [], {}, True))
    await stage.engine.warm.wait()
    new = await stage.up()
    assert not stage.engine.warm.is_set()
    new.send(frames.Catalog([GTE], [], {}, True))
    await stage.engine.warm.wait()
    old.abort()
    await turns(50)
    assert stage.engine.warm.is_set()
    fd = stage.engine.connect()
    assert fd is not None
    os.close(fd)
    ((_, fds),) = stage.supervisor.receive()
    os.close(fds[0])
