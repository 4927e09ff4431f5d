"""Ten thousand requests while every worker is replaced after 50; baseline: workers that stay.

A worker leaves when another is ready in its place, and is told to end when it has nothing
in flight. So no request may fail, and none may be answered twice.
"""

from __future__ import annotations

from bench import servers
from bench.chaos import told
from bench.table import Number
from bench.traffic import Sample, drive, percentile

REQUESTS = 10_000
CONNECTIONS = 16
AFTER = 50
CONFIG = f"{servers.NO_MODELS}[functions.brief]\nmax_requests = {AFTER}\nmin_workers = 2\n"

# Some answer at once and some after a while, so that a worker that leaves has both.
SOURCE = """
import asyncio
import random


async def handler(request):
    await asyncio.sleep(random.choice((0, 0, 0.002, 0.01)))
    return {"message": "Hello!"}
"""


def measure() -> list[Number]:
    """The same requests, to a function whose workers stay and to one whose workers do not."""
    with servers.project({"stays": SOURCE, "brief": SOURCE}, CONFIG) as root, servers.serve(root) as server:
        stays = drive(server.plan(servers.call("stays", b"{}"), connections=CONNECTIONS, requests=REQUESTS))
        brief = drive(server.plan(servers.call("brief", b"{}"), connections=CONNECTIONS, requests=REQUESTS))
        counts = server.metric()["brief"]
    failed = [sample for sample in brief if not sample.ok]
    return [
        Number(
            what=f"workers replaced, of {len(brief)} requests", value=counts["retired"], unit="", least=50
        ),
        Number(what="workers that ended unasked", value=counts["restarts"], unit="", most=0),
        Number(what=f"failed{told(failed)}", value=len(failed), unit="", most=0),
        Number(what="p99", value=p99(brief), unit="ms", baseline=p99(stays)),
    ]


def p99(samples: list[Sample]) -> float:
    return percentile((sample.seconds * 1000 for sample in samples), 99)
