"""Seven kinds of clients together, 12 of each, for three minutes; baseline: some of them alone.

It is the mix of k6 scripts that Supabase's runtime is loaded with, and has thresholds, which
those have not. The functions that do wrong do it all the time: one always takes too much of
the processor, one too much memory, and one boots for five seconds and is replaced again and
again. A wrong answer is one that the function's clients should not have got.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bench import servers
from bench.chaos import told
from bench.reports import SAY, Reports
from bench.servers import Server
from bench.table import Number
from bench.traffic import Load, Plan, Sample, drive, percentile, request

SECONDS = 180.0
CLIENTS = 12
BASELINE_SHARE = 20  # of the time that the mix takes, for each of those that are measured alone
SLEEP_S = 5.0
BOOT_S = 5.0
CPU_MS = 300
MEMORY_MB = 96
UPLOAD = bytes(range(256)) * (30_000_000 // 256)
LIMIT = "546 WORKER_LIMIT"
STOPPED_WITHIN_S = 0.25

SLEEPER = f"""
import asyncio


async def handler(request):
    await asyncio.sleep({SLEEP_S})
    return {{"message": "Slept"}}
"""
SLOW_BOOT = f"""
import asyncio


async def startup():
    await asyncio.sleep({BOOT_S})


async def handler(request):
    return {{"message": "Hello!"}}
"""
BURNER = f"""
import time
{SAY}

async def handler(request):
    asked = await request.json()
    began = now = time.thread_time()
    while now - began < asked["seconds"]:
        told = now
        while now - told < 0.01:
            now = time.thread_time()
        say(asked["port"], str(now - began))
    return {{"message": "Burnt"}}
"""
HOG = """
kept = []


async def handler(request):
    while True:
        kept.append(b"x" * 1_000_000)
"""
CONFIG = f"""
[functions.slow-boot]
max_requests = 100
[functions.burner]
cpu_ms = {CPU_MS}
concurrency = 1
queue_wait_s = 60
[functions.hog]
memory_mb = {MEMORY_MB}
concurrency = 1
queue_wait_s = 60
"""


class Scenario(NamedTuple):
    """One kind of clients.

    Attributes:
        right: the outcome that each of its requests must have.
        answer: what the body of a 200 must contain.
        baseline: the p95 in seconds without the others; None: it is measured.
        times: how often the baseline the p95 may be; 0: there is no bound.
    """

    payload: bytes
    answer: bytes = b""
    right: str = "200"
    clients: int = CLIENTS
    baseline: float | None = None
    times: float = 0.0


class Mix(NamedTuple):
    """What came of it.

    Attributes:
        alone: the p95 in seconds of those scenarios that have a baseline.
        samples: of each scenario, in the mix.
        cpu: the most that a request got of the processor, in seconds.
    """

    scenarios: Mapping[str, Scenario]
    alone: Mapping[str, float]
    samples: Mapping[str, Sequence[Sample]]
    cpu: float


def scenarios(port: int) -> dict[str, Scenario]:
    """The mix.

    Args:
        port: where the burner reports to.
    """

    def burn(seconds: float) -> bytes:
        return servers.call("burner", b'{"seconds":%g,"port":%d}' % (seconds, port))

    upload = request("PUT", "/functions/v1/upload", servers.token(), UPLOAD)
    digest = hashlib.sha256(UPLOAD).hexdigest().encode()
    return {
        "hello": Scenario(servers.HELLO, b"Hello Functions!", times=50),
        "embed": Scenario(servers.call("embed", b'{"input":"%s"}' % (b"Luke " * 100)), times=10),
        "sleeper": Scenario(servers.call("sleeper", b"{}"), b"Slept", baseline=SLEEP_S, times=1.1),
        "slow boot": Scenario(servers.call("slow-boot", b"{}"), b"Hello!", times=50),
        "burner, within its limit": Scenario(burn(CPU_MS / 3000), b"Burnt", clients=CLIENTS // 2),
        "burner, over its limit": Scenario(burn(3600.0), right=LIMIT, clients=CLIENTS // 2),
        "memory hog": Scenario(servers.call("hog", b"{}"), right=LIMIT),
        "30 MB uploads": Scenario(upload, digest, times=10),
    }


def measure(seconds: float = SECONDS) -> list[Number]:
    """What each kind of clients got.

    Args:
        seconds: how long they are there together.
    """
    with server() as ours:
        return results(run(ours, seconds))


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server with the functions of the mix."""
    functions = {"sleeper": SLEEPER, "slow-boot": SLOW_BOOT, "burner": BURNER, "hog": HOG}
    examples = {"hello": "", "embed": "", "upload": ""}
    with (
        servers.embedding_project(examples | functions, CONFIG) as root,
        servers.serve_models(root) as running,
    ):
        servers.eventually(lambda: running.metric()["slow-boot"]["state"] == "ready", "the slow boot")
        yield running


def run(server: Server, seconds: float) -> Mix:
    """First those alone that are compared, then all together."""
    with Reports() as reports, contextlib.ExitStack() as together:
        mix = scenarios(reports.port)
        alone = {
            name: each.baseline or p95(drive(plan(server, each, max(1.0, seconds / BASELINE_SHARE))))
            for name, each in mix.items()
            if each.times
        }
        loads = {
            name: together.enter_context(Load(plan(server, each, seconds))) for name, each in mix.items()
        }
        samples = {name: load.samples() for name, load in loads.items()}
    return Mix(mix, alone, samples, max(map(float, reports.said), default=0.0))


def plan(server: Server, each: Scenario, seconds: float) -> Plan:
    return server.plan(each.payload, connections=each.clients, seconds=seconds, answer=each.answer)


def p95(samples: Sequence[Sample]) -> float:
    """In seconds."""
    return percentile((sample.seconds for sample in samples), 95)


def wrong(each: Scenario, samples: Sequence[Sample]) -> list[Sample]:
    """Those that were not answered as this scenario has to be."""
    return [sample for sample in samples if sample.outcome != each.right]


def results(mix: Mix) -> list[Number]:
    """The thresholds, and what they are about."""
    most = CPU_MS / 1000 + STOPPED_WITHIN_S
    return [
        *(number for name in mix.scenarios for number in compared(name, mix)),
        Number(what="CPU that a burner got, most", value=mix.cpu, unit="s", most=most),
    ]


def compared(name: str, mix: Mix) -> Iterator[Number]:
    """Of one scenario."""
    each, samples, alone = mix.scenarios[name], mix.samples[name], mix.alone.get(name)
    failed = wrong(each, samples)
    what = f"{name}: wrong, of {len(samples)} answers{told(failed)}"
    yield Number(what=what, value=len(failed), unit="", most=0)
    p50 = statistics.median(sample.seconds for sample in samples)
    yield Number(what=f"{name}: p50", value=p50 * 1000, unit="ms")
    yield Number(
        what=f"{name}: p95",
        value=p95(samples) * 1000,
        unit="ms",
        baseline=alone and alone * 1000,
        most=alone and alone * 1000 * each.times,
    )
