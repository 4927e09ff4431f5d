"""Four times what a function can do: who is served, who is turned away, and how soon.

One function has a short queue, so that the surplus is turned away at once; the other's has no
end, and whoever waits in it too long is turned away then. Each has one worker, whose handler
waits 20 ms for ten requests at a time. It tells in which order it was called.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from bench import servers
from bench.flood import Answer, Plan, flood
from bench.servers import Server
from bench.table import Number
from bench.traffic import drive, percentile, rate, request

TIMES = 4
SECONDS = 5.0
PLACES, WORK_S = 10, 0.02
QUEUE, WAIT_S = 100, 0.25
SOON_MS = 50.0
LATE_MS = 50.0  # beyond what waiting and work take
SERVED = 0.9  # of what it serves when nobody is turned away
OVERTOOK_S = 0.005  # requests sent closer to one another may arrive in any order

SOURCE = f"""
import asyncio
import itertools

calls = itertools.count()


async def handler(request):
    call = next(calls)
    await asyncio.sleep({WORK_S})
    return call
"""
CONFIG = f"""{servers.NO_MODELS}
[functions.full]
concurrency = {PLACES}
max_workers = 1
queue = {QUEUE}
[functions.patient]
concurrency = {PLACES}
max_workers = 1
queue = 0
queue_wait_s = {WAIT_S}
"""


def measure(seconds: float = SECONDS) -> list[Number]:
    """What each can do, and then four times that."""
    with (
        servers.project({"full": SOURCE, "patient": SOURCE}, CONFIG) as root,
        servers.serve(root) as server,
    ):
        longest = {"full": QUEUE / PLACES * WORK_S, "patient": WAIT_S}
        after = {"full": 0.0, "patient": WAIT_S}
        return [
            number
            for name in ("full", "patient")
            for number in overloaded(server, name, seconds, longest[name] * 1000, after[name] * 1000)
        ]


def overloaded(
    server: Server, name: str, seconds: float, longest_ms: float, after_ms: float
) -> Iterator[Number]:
    """The numbers of one function.

    Args:
        longest_ms: how long one that is served may have waited.
        after_ms: how long one that is turned away has had to wait.
    """
    plan = server.plan(servers.call(name, b"{}"), connections=PLACES, seconds=1.5)
    calm = drive(plan)
    capacity = rate(calm)
    usual_ms = statistics.median(sample.seconds for sample in calm) * 1000
    payload = request("GET", f"/functions/v1/{name}?number=NUMBER", servers.token())
    answers = flood(Plan(port=server.port, payload=payload, rate=TIMES * capacity, seconds=seconds))
    offered = len(answers) / seconds
    what = f"{name}: offered; baseline: what it can do"
    yield Number(what=what, value=offered, unit="/s", baseline=capacity)
    yield from served(name, answers, capacity * seconds, usual_ms, longest_ms)
    yield from turned_away(name, answers, after_ms)


def served(
    name: str, answers: Sequence[Answer], expected: float, usual_ms: float, longest_ms: float
) -> Iterator[Number]:
    """Those that the function answered."""
    good = [answer for answer in answers if answer.status == 200]
    yield Number(what=f"{name}: served", value=len(good), unit="", least=SERVED * expected)
    yield Number(
        what=f"{name}: served, the slowest",
        value=max(answer.seconds for answer in good) * 1000,
        unit="ms",
        baseline=usual_ms,
        most=longest_ms + usual_ms + LATE_MS,
    )
    yield Number(what=f"{name}: served after one that was sent later", value=overtaken(good), unit="", most=0)


def overtaken(good: Sequence[Answer]) -> int:
    """How many were called after a request that was sent later."""
    latest, count = 0.0, 0
    known = [answer for answer in good if not answer.fresh]
    for answer in sorted(known, key=lambda answer: int(answer.body)):
        count += answer.at < latest - OVERTOOK_S
        latest = max(latest, answer.at)
    return count


def turned_away(name: str, answers: Sequence[Answer], after_ms: float) -> Iterator[Number]:
    """The others."""
    away = [answer for answer in answers if answer.status == 429]
    waits = [answer.seconds * 1000 for answer in away]
    silent = sum(not answer.retry_after for answer in away)
    wrong = Counter(answer.failed or str(answer.status) for answer in answers)
    del wrong["200"], wrong["429"]
    told = f" ({', '.join(f'{n} {what}' for what, n in wrong.most_common())})" if wrong else ""
    yield Number(what=f"{name}: turned away with 429", value=len(away), unit="", least=1)
    yield Number(what=f"{name}: turned away, p50", value=percentile(waits, 50), unit="ms")
    yield Number(
        what=f"{name}: turned away, p99", value=percentile(waits, 99), unit="ms", most=after_ms + SOON_MS
    )
    yield Number(what=f"{name}: turned away without Retry-After", value=silent, unit="", most=0)
    yield Number(what=f"{name}: neither{told}", value=wrong.total(), unit="", most=0)
