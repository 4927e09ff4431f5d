"""Catalogue 5.7: the life of a worker, and its end."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.catalogue.place import Place, Serve, over, within
from tests.running import Server, eventually

SCALED = """
[functions.leaving]
concurrency = 1
min_workers = 1
max_workers = 2
worker_idle_s = 1
"""
AGING = """
[functions.leaving]
max_age_s = 1
"""


@pytest.fixture(scope="module")
def server(place: Place) -> Server:
    return place.server


@pytest.mark.parametrize(
    ("function", "reason", "key"),
    [
        ("leaves-cpu", "cpu", "cpu_ms"),
        ("leaves-memory", "memory", "memory_mb"),
        ("leaves-time", "wall_clock", "timeout_s"),
    ],
)
def test_before_unload_is_told_of_the_limit_for_which_a_worker_goes(
    server: Server, function: str, reason: str, key: str
) -> None:
    """54"""

    def is_told() -> bool:
        """On a machine that is too busy for its worker to answer, it is killed at once."""
        with server.client() as client:
            over(client.get(f"/{function}/{reason}"), key)
        with contextlib.suppress(AssertionError):
            return eventually(lambda: logged(server, function, f"leaving: {reason}"), "the reason", 3.0)
        return False

    eventually(is_told, "a worker that is told")


def test_before_unload_is_told_of_the_age_for_which_a_worker_goes(serve: Serve) -> None:
    """54, 57"""
    own = serve("leaving", config=AGING)
    pid = own.pid_of("fn:leaving")
    own.wait_for_log("leaving: wall_clock")
    eventually(lambda: pid not in own.family(), "its end")
    with own.client() as client:
        assert client.get("/leaving").text == "answered"


@pytest.mark.parametrize(("function", "key"), [("leaves-cpu", "cpu_ms"), ("leaves-time", "timeout_s")])
def test_a_worker_whose_request_lets_go_at_a_limit_stays(server: Server, function: str, key: str) -> None:
    """54: it is the request that is over, and its worker has nothing to be told."""
    with server.client() as client:
        eventually(lambda: client.get(f"/{function}/pid").status_code == 200, "a worker")
        eventually(lambda: server.metric()["functions"][function]["leaving"] == 0, "no worker that goes")
        pid = client.get(f"/{function}/pid").text
        over(client.get(f"/{function}/yields"), key)
        assert client.get(f"/{function}/pid").text == pid


def logged(server: Server, function: str, text: str) -> bool:
    return any(f" {function}/" in line and text in line for line in server.log.splitlines())


def test_before_unload_is_told_of_the_end_and_a_marked_task_is_awaited(serve: Serve) -> None:
    """54, 55"""
    own = serve("leaving")
    with own.client() as client:
        assert client.get("/leaving/marked").text == "answered"
    assert own.stop() == 0
    assert logged(own, "leaving", "leaving: termination")
    assert logged(own, "leaving", "the marked task is done")


def test_a_task_that_is_not_marked_holds_nothing_up(serve: Serve) -> None:
    """56"""
    own = serve("leaving")
    with own.client() as client:
        assert client.get("/leaving/unmarked").text == "answered"
    with within(5):
        assert own.stop() == 0
    assert logged(own, "leaving", "the unmarked task was cancelled")


def test_a_marked_task_survives_a_newer_version_of_its_function(serve: Serve) -> None:
    """55"""
    own = serve("leaving")
    with own.client() as client:
        assert client.get("/leaving/marked").text == "answered"
        pid = own.pid_of("fn:leaving")
        entry = "functions/leaving/index.py"
        own.save(entry, (own.root / entry).read_text() + "# newer\n")
        own.wait_for_log("leaving: reload")
        own.wait_for_log("the marked task is done")
        eventually(lambda: pid not in own.family(), "the end of the old worker")
        assert client.get("/leaving").text == "answered"


def test_a_worker_past_half_of_its_memory_makes_room_for_a_new_one(server: Server) -> None:
    """58"""
    pid = server.pid_of("fn:leaving")
    with server.client() as client:
        assert client.get("/leaving/half").text == "answered"
        eventually(lambda: logged(server, "leaving", "leaving: memory"), "the reason")
        eventually(lambda: pid not in server.family(), "its end")
        assert client.get("/leaving").text == "answered"


def test_a_worker_that_nobody_asks_for_is_dropped_and_told_so(serve: Serve) -> None:
    """59"""
    server = serve("leaving", config=SCALED)
    with server.client() as client, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: client.get("/leaving/yields"), range(2)))
        assert server.metric()["functions"]["leaving"]["workers"] == 2
        eventually(lambda: server.metric()["functions"]["leaving"]["workers"] == 1, "its end")
        server.wait_for_log("leaving: early_drop")


def test_an_application_is_shut_down_after_its_last_request(serve: Serve) -> None:
    """61"""
    own = serve("bare")
    with own.client() as client:
        assert client.get("/bare/app").text == "app"
    assert own.stop() == 0
    assert logged(own, "bare", "the application shuts down")
