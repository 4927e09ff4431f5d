"""The first request after a fresh start; baseline: the median of the next hundred."""

from __future__ import annotations

import statistics
from pathlib import Path

from bench import servers
from bench.client import Client
from bench.table import Number
from bench.traffic import all_good, percentile

STARTS = 20
NEXT = 100

EMBED = servers.call("embed", b'{"input":"Luke, I am your father"}')


def measure() -> list[Number]:
    """Starts of the same project; what is asked first differs."""
    with servers.embedding_project({"hello": "", "embed": ""}) as root:
        hello = [start(root, servers.HELLO) for _ in range(STARTS)]
        embed = [start(root, EMBED) for _ in range(STARTS)]
    return [*compared("hello", hello, 3.0), *compared("embed", embed, 20.0)]


def start(root: Path, payload: bytes) -> tuple[float, float]:
    """The first request and the median of the next ones, in ms.

    They go out on one connection the moment the server says that it is ready.
    """
    with servers.serve_models(root) as server:
        samples = Client(server.plan(payload, requests=1 + NEXT)).run()
    first, *following = (sample.seconds * 1000 for sample in all_good(samples))
    return first, statistics.median(following)


def compared(name: str, starts: list[tuple[float, float]], most: float) -> list[Number]:
    slower = [first - usual for first, usual in starts]
    return [
        Number(
            what=f"{name}: first request, p50 of {STARTS} starts",
            value=statistics.median(first for first, _ in starts),
            unit="ms",
            baseline=statistics.median(usual for _, usual in starts),
        ),
        Number(what=f"{name}: slower by, p50", value=statistics.median(slower), unit="ms"),
        Number(what=f"{name}: slower by, p90", value=percentile(slower, 90), unit="ms", most=most),
    ]
