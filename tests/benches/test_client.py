"""The client of the benches says what really came."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from bench.client import Client, Steady
from bench.traffic import Plan, request

LARGE = 8_000_000  # more than a socket takes at once


class Handler(http.server.BaseHTTPRequestHandler):
    """Tells the size of what it got, and leaves the connection open."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = len(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/slow":
            time.sleep(0.1)
        body = b'{"code": "NO"}' if self.path == "/no" else b"%d bytes" % size
        self.send_response(500 if self.path == "/no" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def outcomes(client: Client) -> list[str]:
    return [sample.outcome for sample in client.run()]


def test_large_requests_go_out_on_all_connections_at_once(port: int) -> None:
    payload = request("POST", "/", body=bytes(LARGE))
    plan = Plan(port=port, payloads=[payload], connections=3, requests=6, answer=b"%d bytes" % LARGE)
    assert outcomes(Client(plan)) == ["200"] * 6


@pytest.mark.parametrize(
    ("path", "answer", "outcome"),
    [("/", b"2 bytes", "200"), ("/", b"3 bytes", "200 (wrong)"), ("/no", b"", "500 NO")],
)
def test_an_answer_is_right_or_said_to_be_wrong(port: int, path: str, answer: bytes, outcome: str) -> None:
    plan = Plan(port=port, payloads=[request("POST", path, body=b"{}")], requests=2, answer=answer)
    assert outcomes(Client(plan)) == [outcome] * 2


def test_at_a_fixed_rate_what_waits_for_a_connection_counts_from_when_it_was_due(port: int) -> None:
    plan = Plan(port=port, payloads=[request("POST", "/slow", body=b"{}")], rate=100, seconds=0.1)
    samples = Steady(plan).run()
    assert [sample.outcome for sample in samples] == ["200"] * 10
    # Ten that take 0.1 s each, one after the other, and that were due 0.01 s apart.
    assert samples[-1].seconds > 0.8


def test_at_a_fixed_rate_nobody_hurries(port: int) -> None:
    plan = Plan(port=port, payloads=[request("POST", "/", body=b"{}")], connections=2, rate=50, seconds=0.2)
    samples = Steady(plan).run()
    assert [sample.outcome for sample in samples] == ["200"] * 10
    assert samples[-1].at - samples[0].at >= 0.17
