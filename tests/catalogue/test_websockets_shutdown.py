"""Catalogue 5.6: WebSockets, and the end of a server."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.catalogue.place import Place, Serve, within


@pytest.mark.parametrize("path", ["/sockets", "/bare", "/starlettes/socket", "/fastapis/socket"])
def test_a_websocket_is_greeted_and_hears_what_it_says(place: Place, path: str) -> None:
    """51, 52"""
    with place.socket(path) as socket:
        assert socket.recv() == "meow"
        for text in ("one", "two"):
            socket.send(text)
            assert socket.recv() == text


def test_a_server_that_is_told_to_stop_finishes_what_it_has_begun(serve: Serve) -> None:
    """53"""
    server = serve("sleeper")
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: client.get("/sleeper?seconds=0.5"))
        server.wait_for_log("asleep")
        assert server.metric()["functions"]["sleeper"]["in_flight"] == 1
        with within(10):
            server.process.send_signal(signal.SIGTERM)
            response = running.result()
            assert (response.status_code, response.text) == (200, "slept")
            assert server.process.wait(20) == 0
