"""Hello from a fresh process for each request (`policy = "oneshot"`); baseline: from workers that stay."""

from __future__ import annotations

import statistics

from bench import servers
from bench.servers import Server
from bench.table import Number
from bench.traffic import Sample, all_good, drive, percentile

ROUNDS = 10
REQUESTS = 60
CONNECTIONS = 8
CONFIG = servers.NO_MODELS + '[edge_runtime]\npolicy = "oneshot"\n'


def measure() -> list[Number]:
    """Rounds in turns: one client, and then several at a time."""
    with (
        servers.project({"hello": ""}) as staying,
        servers.project({"hello": ""}, CONFIG) as fresh,
        servers.serve(staying) as plain,
        servers.serve(fresh) as oneshot,
    ):
        alone = [(ask(plain, 1), ask(oneshot, 1)) for _ in range(ROUNDS)]
        together = [(ask(plain, CONNECTIONS), ask(oneshot, CONNECTIONS)) for _ in range(ROUNDS)]
    return [
        *compared("one client", alone, most=15.0),
        *compared(f"{CONNECTIONS} clients", together),
        Number(
            what=f"requests/s, {CONNECTIONS} clients",
            value=statistics.median(speed(pair[1]) for pair in together),
            unit="/s",
            baseline=statistics.median(speed(pair[0]) for pair in together),
        ),
    ]


def ask(server: Server, connections: int) -> list[Sample]:
    return all_good(drive(server.plan(servers.HELLO, connections=connections, requests=REQUESTS)))


def compared(
    name: str, rounds: list[tuple[list[Sample], list[Sample]]], most: float | None = None
) -> list[Number]:
    """Medians, the median of what each pair of rounds says, and the slowest in a hundred."""

    def p50(samples: list[Sample]) -> float:
        return statistics.median(sample.seconds * 1000 for sample in samples)

    plain = [sample.seconds * 1000 for pair in rounds for sample in pair[0]]
    fresh = [sample.seconds * 1000 for pair in rounds for sample in pair[1]]
    added = statistics.median(p50(pair[1]) - p50(pair[0]) for pair in rounds)
    return [
        Number(
            what=f"{name}, p50",
            value=statistics.median(fresh),
            unit="ms",
            baseline=statistics.median(plain),
        ),
        Number(what=f"{name}: added at p50", value=added, unit="ms", most=most),
        Number(what=f"{name}, p99", value=percentile(fresh, 99), unit="ms", baseline=percentile(plain, 99)),
    ]


def speed(samples: list[Sample]) -> float:
    """Requests per second."""
    return len(samples) / (max(sample.ended for sample in samples) - min(sample.at for sample in samples))
