"""Catalogue 5.4: limits, and what fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.catalogue.place import Place, RawWire, Serve, over, told, within
from tests.running import Server, eventually

ONESHOT = """
[edge_runtime]
policy = "oneshot"
[functions.sleeper]
max_workers = 1
queue_wait_s = 0.01
"""

SOON_S = 1.0


@pytest.fixture(scope="module")
def oneshot(serve: Serve) -> Server:
    return serve("dies", "sleeper", config=ONESHOT)


def test_a_oneshot_request_has_a_process_of_its_own(oneshot: Server) -> None:
    """32"""
    with oneshot.client() as client:
        pids = [client.get("/dies").json() for _ in range(3)]
        assert len(set(pids)) == 3
        eventually(lambda: not set(pids) & oneshot.family().keys(), "their end")


def test_a_oneshot_request_without_a_worker_in_time_is_told_so(oneshot: Server) -> None:
    """32"""
    with oneshot.client() as client, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: client.get("/sleeper?seconds=0.3"), range(2)))
    served, refused = sorted(answers, key=lambda answer: answer.status_code)
    assert served.text == "slept"
    told(refused, 429, "OVERLOADED")


def test_a_request_that_finds_no_room_in_time_is_told_when_to_come_back(place: Place) -> None:
    """32: on purpose 429, for clients that try again"""
    with place.client() as client, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: client.get("/narrow"), range(2)))
    served, refused = sorted(answers, key=lambda answer: answer.status_code)
    assert served.text == "served"
    told(refused, 429, "OVERLOADED")
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_a_request_over_its_processor_time_that_yields(client: httpx2.Client, kind: str) -> None:
    """33"""
    over(client.get(f"/spins/{kind}"), "cpu_ms")


def test_a_request_over_its_processor_time_that_never_yields(client: httpx2.Client) -> None:
    """34"""
    over(client.get("/spins/sync"), "cpu_ms")


def test_a_request_over_its_time(client: httpx2.Client) -> None:
    """35"""
    over(client.get("/slow"), "timeout_s")


def test_a_request_over_a_time_that_is_shorter_than_a_boot(client: httpx2.Client) -> None:
    """36: the clock starts with the request, not with the worker, so it is always the same answer"""
    over(client.get("/brief"), "timeout_s")


def test_memory_taken_in_one_go(client: httpx2.Client) -> None:
    """37"""
    over(client.get("/hogs/sync"), "memory_mb")


def test_memory_taken_step_by_step(client: httpx2.Client) -> None:
    """38"""
    over(client.get("/hogs/async"), "memory_mb")


def test_a_client_that_resets_its_connection_stops_its_handler_and_nothing_else(
    client: httpx2.Client, wire: RawWire
) -> None:
    """39"""

    def state(key: str) -> int:
        number: int = client.get("/sleeper/state").json()[key]
        return number

    before = state("cancelled")
    wire.call("GET", "/sleeper?seconds=60")
    eventually(lambda: state("asleep") == 1, "the handler")
    wire.reset()
    eventually(lambda: state("cancelled") == before + 1, "its cancellation")
    assert client.get("/sleeper?seconds=0").text == "slept"


def test_a_function_that_gives_up_a_call_of_its_own_answers_for_itself_and_the_other_is_cancelled(
    place: Place, client: httpx2.Client
) -> None:
    """41"""
    assert place.server  # the function calls its own project
    before = client.get("/sleeper/state").json()["cancelled"]
    response = client.get("/outgoing/give-up")
    assert (response.status_code, response.json()) == (500, {"msg": "ReadTimeout"})
    eventually(lambda: client.get("/sleeper/state").json()["cancelled"] == before + 1, "its cancellation")


def test_processor_time_of_a_callback_is_that_of_the_request_that_asked_for_it(
    client: httpx2.Client,
) -> None:
    """42"""
    over(client.get("/spins/callback"), "cpu_ms")


def test_a_spin_after_the_response_ends_the_worker(place: Place, client: httpx2.Client) -> None:
    """43"""
    ends_by_itself(place, client, "spins", "cpu_ms")


def test_memory_taken_after_the_response_ends_the_worker(place: Place, client: httpx2.Client) -> None:
    """43"""
    ends_by_itself(place, client, "hogs", "memory_mb")


def ends_by_itself(place: Place, client: httpx2.Client, function: str, key: str) -> None:
    """Check that a worker ends for what it does in the background, and that the log names the limit."""
    told_before = place.server.log.count(key)
    response = client.get(f"/{function}/background")
    assert response.status_code == 200
    pid = response.json()["pid"]
    eventually(lambda: client.get(f"/{function}").json().get("pid", pid) != pid, "its end", SOON_S)
    place.server.wait_for_log(key, told_before + 1)


def test_a_function_boots_within_a_second_while_another_spins(place: Place, client: httpx2.Client) -> None:
    """44"""
    pid = client.get("/dies").json()
    with place.client() as neighbour, neighbour.stream("GET", "/spinner/told") as response:
        pieces = response.iter_text()
        assert next(pieces) == "spinning"
        told(client.get("/dies/now"), 500, "WORKER_ERROR")
        with within(1.0):
            assert client.get("/dies").json() != pid
        assert [*pieces] == []
