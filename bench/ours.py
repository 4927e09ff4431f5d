"""Our server with one model at one precision, asked over HTTP as anybody would."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2

from bench import gte, servers
from bench.closed import Outcome, resident
from bench.servers import Server
from bench.traffic import Plan, Sample, all_good, drive

_MANY = """
import os

from runtime import Request, Response, ai

session = ai.Session(os.environ["EMBEDDING_MODEL"])


async def handler(request: Request) -> Response:
    vectors = await session.embed((await request.json())["input"], timeout=None)
    return Response(vectors.tobytes(), media_type="application/octet-stream")
"""

# A second worker that comes and goes would take the CPU that it used out of the sums.
_CONFIG = """
[ai.models."{model}"]
precision = "{precision}"

[edge_runtime.defaults]
max_workers = 1
concurrency = 256
"""


class Ours:
    """A server whose `embed` is our example; lists go to a function that answers with bytes."""

    def __init__(self, name: str, server: Server) -> None:
        self.name, self.server = name, server
        self._engine = server.pid_of("fn-engine")
        self._client = httpx2.Client(base_url=server.url, timeout=None, headers=servers.bearer("anon"))

    def serve(self, texts: Sequence[str], clients: int) -> Outcome:
        """Have the texts served to so many clients; 0: all of them in one call."""
        before = self._cpu()
        if clients:
            waits = self.clients(texts, clients)
            took = max(sample.ended for sample in waits) - waits[0].at
        else:
            waits, took = [], self.bulk(texts)
        cpu = self._cpu() - before
        return Outcome(took, [sample.seconds for sample in waits], cpu, resident(self._engine))

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """What `embed` answers."""
        page = self._client.post("/functions/v1/embed", json={"input": texts})
        rows: list[list[float]] = page.raise_for_status().json()
        return rows

    def clients(self, texts: Sequence[str], clients: int) -> list[Sample]:
        """A sample of each text, in their order."""
        return _in_order(drive(self._plan(texts, clients, len(texts))))

    def steady(self, texts: Sequence[str], clients: int, count: int) -> list[tuple[int, float]]:
        """So many requests; each text's place, and how long it waited. The first and the last ones,
        during which not all clients are there, are left out."""
        samples = _in_order(drive(self._plan(texts, clients, count)))
        waits = [(place % len(texts), sample.seconds) for place, sample in enumerate(samples)]
        return waits[clients:-clients]

    def beside(self, texts: Sequence[str], clients: int, bulk: Sequence[str]) -> tuple[list[float], float]:
        """What clients wait while a call of many texts runs, and how long that takes."""
        with ThreadPoolExecutor(1) as pool:
            call: Future[float] = pool.submit(self.bulk, bulk)
            began, waits = time.monotonic(), []
            while not call.done():
                waits += drive(self._plan(texts, clients, len(texts)))
        took = call.result()
        return [sample.seconds for sample in all_good(waits) if sample.ended <= began + took], took

    def bulk(self, texts: Sequence[str]) -> float:
        """Seconds that a call of all the texts takes."""
        body = json.dumps({"input": texts}).encode()
        began = time.monotonic()
        page = self._client.post(
            "/functions/v1/many", content=body, headers={"content-type": "application/json"}
        )
        took = time.monotonic() - began
        if len(page.raise_for_status().content) != 4 * gte.HIDDEN * len(texts):
            raise RuntimeError(f"{len(page.content)} bytes came back for {len(texts)} texts")
        return took

    def stop(self) -> None:
        self._client.close()

    def _plan(self, texts: Sequence[str], clients: int, requests: int) -> Plan:
        payloads = [servers.call("embed", json.dumps({"input": text}).encode()) for text in texts]
        return self.server.plan(*payloads, connections=clients, requests=requests, seconds=600.0)

    def _cpu(self) -> float:
        return sum(self.server.cpu().values())


def _in_order(samples: list[Sample]) -> list[Sample]:
    """As they were sent: one process sends one after the other."""
    return sorted(all_good(samples), key=lambda sample: sample.at)


@contextlib.contextmanager
def ours(precision: str) -> Iterator[Ours]:
    """Our server, while the `with` block runs; its model is warm."""
    config = _CONFIG.format(model=gte.GTE, precision=precision)
    with (
        servers.project({"embed": "", "many": _MANY}, config, f"EMBEDDING_MODEL={gte.GTE}\n") as root,
        servers.serve(root, XDG_DATA_HOME=str(gte.data_home())) as server,
    ):
        found = Ours(f"ours, {precision}", server)
        try:
            yield found
        finally:
            found.stop()
