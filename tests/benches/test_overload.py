from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from bench.flood import Answer, Flood, Plan
from bench.overload import overtaken, turned_away

PAYLOAD = b"GET /?number=NUMBER HTTP/1.1\r\nhost: localhost\r\n\r\n"


def called(*pairs: tuple[float, int]) -> list[Answer]:
    """Requests: when each was sent, and as which one it was called."""
    return [Answer(at, 0.1, 200, body=str(call).encode()) for at, call in pairs]


def test_the_order_of_calls_is_the_order_of_sending() -> None:
    assert overtaken(called((1.0, 0), (1.1, 1), (1.2, 2))) == 0
    assert overtaken(called((1.0, 1), (1.1, 0), (1.2, 2))) == 1
    assert overtaken(called((1.0, 2), (1.1, 0), (1.2, 1))) == 1
    assert overtaken(called((1.0, 1), (1.001, 0))) == 0  # sent at almost the same time


def test_everything_that_is_wrong_with_the_surplus_is_counted() -> None:
    answers = [
        Answer(0.0, 0.01, 429, True),
        Answer(0.0, 0.2, 429, False),
        Answer(0.0, 0.0, 0, failed="ConnectionResetError"),
        Answer(0.0, 0.02, 200),
    ]
    away, _, p99, silent, neither = turned_away("full", answers, after_ms=0)
    assert (away.value, silent.value, neither.value) == (2, 1, 1)
    assert neither.what == "full: neither (1 ConnectionResetError)"
    assert p99.value == pytest.approx(200)
    assert not p99.met


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers with the number it was sent; it turns some away, and closes on others."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def accept(listener: socket.socket) -> None:
    threads = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        threads.append(threading.Thread(target=answer, args=(connection,)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def answer(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1000):
            number = int(data.split()[1].partition(b"=")[2] or 0)
            if number % 5 == 4:
                return
            head = b"429 \r\nretry-after: 1" if number % 3 == 2 else b"200 \r\nx: y"
            body = b"%d" % number
            connection.sendall(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (head, len(body), body))


def test_a_flood_tells_of_every_request_in_the_order_of_sending(port: int) -> None:
    plan = Plan(port=port, payload=PAYLOAD, rate=200, seconds=0.1, connections=3)
    answers = Flood(plan).run()
    assert len(answers) == 20
    for number, each in enumerate(answers):
        if number % 5 == 4:
            assert (each.status, each.failed) == (0, "ConnectionAbortedError")
        else:
            assert each.body == b"%d" % number
            assert (each.status == 429) is each.retry_after is (number % 3 == 2)
    assert [each.at for each in answers] == sorted(each.at for each in answers)
