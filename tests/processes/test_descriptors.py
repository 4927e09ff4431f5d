"""Where a process may have few descriptors, clients are refused properly and functions get their share."""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.wire import Wire, is_whole
from tests.running import Server, body, project, serving

FUNCTIONS = {
    "slow": "import asyncio\nasync def handler(request):\n    await asyncio.sleep(0.2)\n    return 'served'",
    "limit": "import resource\n"
    "async def handler(request): return {'soft': resource.getrlimit(resource.RLIMIT_NOFILE)[0]}",
}
SOFT, HARD = 200, 256
CLIENTS = 320


def few() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = project(tmp_path_factory.mktemp("descriptors"), FUNCTIONS)
    with serving(root, preexec_fn=few) as server:
        yield server


def is_served(server: Server) -> bool:
    with server.client() as client:
        return client.get("/slow").text == "served"


@pytest.mark.parametrize("how", ["all ask at once", "all come before one asks"])
def test_more_clients_than_there_is_room_for_are_told_so(server: Server, how: str) -> None:
    with contextlib.ExitStack() as stack:

        def dial() -> Wire:
            wire = Wire(server)
            stack.callback(wire.close)
            return wire

        def ask(wire: Wire) -> int:
            wire.ask("POST", "/functions/v1/slow", body=b"x" * 1000)
            answer = wire.answer()
            if answer.status != 200:
                is_whole(answer.json(), answer.status, "OVERLOADED", answer.headers)
                assert answer.headers["retry-after"] == "1"
            wire.close()
            return answer.status

        with ThreadPoolExecutor(CLIENTS) as pool:
            if how == "all ask at once":
                statuses = Counter(pool.map(lambda _: ask(dial()), range(CLIENTS)))
            else:
                statuses = Counter(pool.map(ask, [dial() for _ in range(CLIENTS)]))
    assert statuses[200] + statuses[429] == CLIENTS
    assert min(statuses[200], statuses[429]) > 0
    assert is_served(server)
    assert list(server.family().values()).count("fn:slow") == 1
    assert server.metric()["functions"]["slow"]["restarts"] == 0


def test_functions_get_what_the_server_may_give_and_no_more(server: Server) -> None:
    with server.client() as client:
        assert body(client.get("/limit")) == {"soft": HARD}
    limits = Path(f"/proc/{server.pid_of('fn-gateway')}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3:5] == [str(HARD), str(HARD)]
