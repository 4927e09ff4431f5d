"""The HTTP server's side of a WebSocket."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from runtime.gateway import socketprotocol
from runtime.gateway.socketprotocol import SocketProtocol

pytestmark = pytest.mark.anyio


@pytest.fixture
async def protocol() -> SocketProtocol:
    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    protocol = SocketProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    transport = Mock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = None
    protocol.connection_made(transport)
    return protocol


def task() -> asyncio.Task[None]:
    return asyncio.create_task(asyncio.sleep(0))


async def test_a_client_that_does_not_take_the_end_is_given_up(
    protocol: SocketProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketprotocol, "FLUSH_S", 0)
    protocol.on_task_complete(task())
    async with asyncio.timeout(5):
        while not protocol.transport.abort.called:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_websocket_that_is_over_leaves_no_timer(protocol: SocketProtocol) -> None:
    protocol.on_task_complete(task())
    timer = protocol._last_timer
    assert timer is not None
    protocol.connection_lost(None)
    assert timer.cancelled()


async def test_one_that_was_lost_before_its_end_sets_none(protocol: SocketProtocol) -> None:
    protocol.connection_lost(None)
    protocol.on_task_complete(task())
    assert protocol._last_timer is None


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


@pytest.mark.parametrize("frame", [b"\x81\x00", b"\xf1\x80abcd", b"\x81\x81abcd\x9e", b"\x88\xff"])
async def test_a_client_that_does_not_wait_for_the_handshake_s_answer_is_sent_away(
    protocol: SocketProtocol, frame: bytes
) -> None:
    protocol.data_received(HANDSHAKE + b"\r\n")
    protocol.data_received(frame)
    assert protocol.transport.close.called  # type: ignore[attr-defined]


async def test_a_handshake_that_cannot_be_read_does_not_keep_its_connection(protocol: SocketProtocol) -> None:
    protocol.data_received(HANDSHAKE + b"Content-Length: 5\r\n\r\n")
    assert protocol.transport.close.called  # type: ignore[attr-defined]


async def test_one_who_broke_the_rules_is_not_talked_to(protocol: SocketProtocol) -> None:
    """Not even when the function speaks before the connection is gone."""
    protocol.data_received(HANDSHAKE + b"\r\n")
    protocol.transport.is_closing.return_value = False  # type: ignore[attr-defined]
    await protocol.send({"type": "websocket.accept"})
    protocol.data_received(b"\xf1\x80abcd")
    protocol.transport.is_closing.return_value = True  # type: ignore[attr-defined]
    with pytest.raises(ClientDisconnected):
        await protocol.send({"type": "websocket.send", "text": "hello"})
