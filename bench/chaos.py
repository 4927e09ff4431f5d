"""Processes killed with SIGKILL under load; baseline of a return: a whole fresh start.

A request that no worker had accepted is given to another one, so a killed worker fails only
what it had begun. A killed gateway resets the connections that it held, each with at most
one request; none is refused, because the supervisor holds the listening socket. Calls that
a killed engine had are sent again to the next engine, so they take longer and do not fail.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable

from bench import servers
from bench.cold import EMBED
from bench.servers import Server
from bench.table import Number
from bench.traffic import Load, Sample

CONNECTIONS = 8
REQUESTS = 1000
KILLS = 3  # of gateway and engine each
BETWEEN_S = 3.0
SEED = 2026

BEGUN = "500 WORKER_ERROR"
"""What a client gets whose request died with its worker; "(not run)" would follow otherwise."""

# Slow enough to be killed in the middle of it.
SLOW = """
import asyncio


async def handler(request):
    await asyncio.sleep(0.02)
    return {"message": "Hello!"}
"""
CONFIG = "[functions.slow]\nmin_workers = 2\n"


def measure() -> list[Number]:
    """Workers first, then the gateway, then the engine."""
    chance = random.Random(SEED)
    with (
        servers.embedding_project({"hello": "", "embed": "", "slow": SLOW}, CONFIG) as root,
        servers.serve_models(root) as server,
    ):
        return [
            *workers(server, chance),
            *returns("gateway", server, servers.HELLO, chance),
            *returns("engine", server, EMBED, chance),
        ]


def workers(server: Server, chance: random.Random) -> list[Number]:
    """A thousand requests, while one of two workers is killed every twentieth of a second or so."""
    kills = 0
    plan = server.plan(servers.call("slow", b"{}"), connections=CONNECTIONS, requests=REQUESTS)
    with Load(plan) as load:
        while load.running:
            time.sleep(chance.uniform(0.02, 0.1))
            pids = [pid for pid, name in server.family().items() if name == "fn:slow"]
            kills += kill(chance.choice(pids)) if pids else 0
        samples = load.samples()
    begun = [sample for sample in samples if sample.outcome == BEGUN]
    lost = [sample for sample in samples if not sample.ok and sample.outcome != BEGUN]
    return [
        Number(what=f"workers killed, of {len(samples)} requests", value=kills, unit=""),
        Number(what="workers: failed, accepted before", value=len(begun), unit=""),
        Number(what=f"workers: failed, not accepted{told(lost)}", value=len(lost), unit="", most=0),
    ]


def returns(role: str, server: Server, payload: bytes, chance: random.Random) -> list[Number]:
    """Kill a process under load, and wait for the next answer, a few times."""
    killed: list[float] = []
    plan = server.plan(payload, connections=CONNECTIONS, seconds=KILLS * (BETWEEN_S + 1))
    with Load(plan) as load:
        for _ in range(KILLS):
            time.sleep(BETWEEN_S + chance.uniform(-0.5, 0.5))
            kill(server.pid_of(f"fn-{role}"))
            killed.append(time.monotonic())
        samples = load.samples()
    failed = [sample for sample in samples if not sample.ok]
    return [
        Number(what=f"{role} killed, of {len(samples)} requests", value=KILLS, unit=""),
        Number(what=f"{role}: failed{told(failed)}", value=len(failed), unit=""),
        Number(
            what=f"{role}: longest time without an answer",
            value=max(outage(moment, samples) for moment in killed),
            unit="s",
            baseline=server.ready - server.started,
            most=1.0,
        ),
    ]


def outage(killed: float, samples: Iterable[Sample]) -> float:
    """Seconds until a request was answered that was sent after the kill."""
    ends = (sample.ended for sample in samples if sample.ok and sample.at >= killed)
    return min(ends, default=math.inf) - killed


def kill(pid: int) -> bool:
    """End a process without warning; false: it is gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def told(samples: Iterable[Sample]) -> str:
    """What became of failed requests."""
    counts = Counter(sample.outcome for sample in samples)
    return f" ({', '.join(f'{count} {outcome}' for outcome, count in counts.items())})" if counts else ""
