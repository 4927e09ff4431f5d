"""Catalogue 5.5: functions and clients that fall silent."""

from __future__ import annotations

import time

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from tests.catalogue.place import ROOM_S, Place, RawWire, told, within
from tests.catalogue.project import HEAD_S, IDLE_S
from tests.conformance.wire import Cut


def test_a_function_without_a_first_byte_in_time_is_a_504(client: httpx2.Client) -> None:
    """45"""
    with within(IDLE_S + ROOM_S):
        message = told(client.get("/idle"), 504, "IDLE_TIMEOUT")
    assert "idle_s" in message


def test_a_stream_that_falls_silent_is_cut_and_does_not_end_like_a_whole_one(wire: RawWire) -> None:
    """46: on purpose, a client that got half must know it"""
    wire.call("GET", "/idle/pieces")
    head = wire.head()
    assert (head.status, "content-length" in head.headers) == (200, False)
    assert [wire.chunk() for _ in range(3)] == [b"m", b"e", b"o"]
    with pytest.raises(Cut):
        wire.chunk()


def test_a_stream_whose_first_piece_is_late_is_a_504(client: httpx2.Client) -> None:
    """47: on purpose no 200 with an empty body"""
    assert "idle_s" in told(client.get("/idle/first-piece"), 504, "IDLE_TIMEOUT")


def test_a_silent_websocket_is_closed_with_a_reason(place: Place) -> None:
    """48: on purpose with a handshake, so that the client knows why"""
    with place.socket("/quiet") as socket:
        assert socket.recv() == "meow"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=3 * IDLE_S)
    assert closed.value.rcvd is not None
    assert "websocket_idle_s" in closed.value.rcvd.reason


def test_a_client_that_connects_and_says_nothing_is_sent_away(wire: RawWire) -> None:
    """49: with a 408 that says why"""
    with within(HEAD_S + ROOM_S):
        assert wire.answer().status == 408
        assert wire.rest() == b""


def test_a_client_that_dribbles_its_head_is_sent_away(wire: RawWire) -> None:
    """50: with a 408 that says why"""
    wire.sock.settimeout(0.05)
    began = time.monotonic()
    received = b""
    for byte in b"GET /functions/v1/basic HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000:
        try:
            wire.send(bytes([byte]))
            received = wire.sock.recv(1000)
            break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    assert received.startswith(b"HTTP/1.1 408 ")
    assert HEAD_S * 0.9 < time.monotonic() - began < HEAD_S + ROOM_S


def test_a_client_that_is_fast_enough_is_not_sent_away(wire: RawWire) -> None:
    """49, 50: the inverted cases"""
    for _ in range(2):
        wire.call("GET", "/basic")
        assert wire.answer().body == b"basic"
    wire.call("GET", "/sleeper?seconds=0.7")  # the clock is for the head alone
    assert wire.answer().body == b"slept"


def test_a_body_may_be_slower_than_a_head(wire: RawWire) -> None:
    """50: the inverted case of an upload"""
    wire.call("POST", "/basic/length", "Transfer-Encoding: chunked")
    end = time.monotonic() + HEAD_S + 0.2
    sent = 0
    while time.monotonic() < end:
        wire.send_chunk(b"x")
        sent += 1
        time.sleep(0.05)
    wire.send_chunk(b"")
    assert wire.answer().json()["length"] == sent
