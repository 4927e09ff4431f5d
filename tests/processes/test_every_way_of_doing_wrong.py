"""Whatever a function does, its clients are told, its neighbours are served, and nothing outlives it.

The ways are those that `python -m bench hostile` measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench import hostile
from bench.reports import Reports
from tests.running import HELLO, Server, body, eventually, project

from .users import IS_ROOT, ME, User

# For these it matters whose processes they are: of a user of its own, or of the server's.
AS_ANYBODY = ("daemonizes", "fork_bombs", "forks")
PATIENT = "spins_in_children"  # test_memory_limits.py has it: they are given some seconds
CODES = {500: "WORKER_ERROR", 546: "WORKER_LIMIT"}


@contextmanager
def serving(user: User) -> Iterator[Server]:
    with user.folder() as folder:
        functions = {"hostile": hostile.HOSTILE, "hello": HELLO}
        with user.serving(project(folder / "project", functions, hostile.CONFIG)) as server:
            yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(ME) as server:
        yield server


@pytest.fixture(scope="module")
def ordinary_server() -> Iterator[Server]:
    with serving(User("ordinary")) as server:
        yield server


def hurts_itself_alone(server: Server, way: str) -> None:
    """Do wrong once."""
    gateway, temp = server.pid_of("fn-gateway"), server.root.parent / "tmp"
    with server.client() as client, Reports() as reports:
        answer = client.get("/hostile", params={"way": way, "number": 1, "port": reports.port})
        assert body(answer)["code"] == CODES[answer.status_code]
        eventually(lambda: not hostile.traces(temp), "the end of all that it started and wrote")
        assert reports.said  # it did what it was asked to do
        assert client.post("/hello", json={"name": "x"}).json() == {"message": "Hello x!"}
        assert client.get("/hostile", params={"way": "behaves"}).text == "well"
    assert server.pid_of("fn-gateway") == gateway


@pytest.mark.parametrize("way", [way for way in hostile.ways() if way != PATIENT])
def test_a_function_hurts_itself_alone_and_leaves_nothing(server: Server, way: str) -> None:
    hurts_itself_alone(server, way)


@pytest.mark.skipif(not IS_ROOT, reason="it is the same as the other")
@pytest.mark.parametrize("way", AS_ANYBODY)
def test_so_it_is_where_all_functions_are_one_user(ordinary_server: Server, way: str) -> None:
    hurts_itself_alone(ordinary_server, way)
