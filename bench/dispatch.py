"""Hello through gateway and worker, with keys checked and requests logged; baseline: uvicorn alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from bench import servers
from bench.load import drive, median_us, rate
from bench.servers import Server
from bench.table import Number

CONNECTIONS = 16
ROUNDS = 6
SECONDS = 1.5

APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def hello(request):
    data = await request.json() if await request.body() else {}
    return JSONResponse({"message": f"Hello {data.get('name', 'World')}!"})


app = Starlette(routes=[Route("/", hello, methods=["POST"])])
"""


def measure() -> list[Number]:
    """Rates and latencies, in turns: a round of each server after a round of the other."""
    app = servers.call("app", b'{"name":"Functions"}', "/")
    with (
        servers.project({"hello": "", "app": APP}) as root,
        servers.serve(root) as ours,
        servers.baseline() as plain,
    ):
        lanes = [(plain, servers.HELLO), (ours, servers.HELLO), (ours, app)]
        rates = rounds(lanes, throughput)
        waits = rounds(lanes, latency)
    return [
        *compared("hello", rates[0], rates[1], waits[0], waits[1], least=60.0, most=200.0),
        *compared("the same app, exported", rates[0], rates[2], waits[0], waits[2]),
    ]


def rounds(
    lanes: list[tuple[Server, bytes]], measured: Callable[[Server, bytes], float]
) -> list[list[float]]:
    """What each lane measured, round by round; one round before that warms them."""
    for server, payload in lanes:
        drive(server.plan(payload, connections=CONNECTIONS, seconds=0.4))
    results = [[measured(server, payload) for server, payload in lanes] for _ in range(ROUNDS)]
    return [list(column) for column in zip(*results, strict=True)]


def throughput(server: Server, payload: bytes) -> float:
    return rate(drive(server.plan(payload, connections=CONNECTIONS, seconds=SECONDS)))


def latency(server: Server, payload: bytes) -> float:
    return median_us(drive(server.plan(payload, seconds=SECONDS / 2)))


def compared(
    name: str,
    base_rates: list[float],
    rates: list[float],
    base_waits: list[float],
    waits: list[float],
    *,
    least: float | None = None,
    most: float | None = None,
) -> list[Number]:
    """The medians, and the medians of what each pair of rounds says."""
    median = statistics.median
    shares = [100 * ours / base for ours, base in zip(rates, base_rates, strict=True)]
    added = [ours - base for ours, base in zip(waits, base_waits, strict=True)]
    return [
        Number(
            what=f"{name}: requests/s, {CONNECTIONS} connections",
            value=median(rates),
            unit="/s",
            baseline=median(base_rates),
        ),
        Number(what=f"{name}: share of the baseline", value=median(shares), unit="%", least=least),
        Number(
            what=f"{name}: p50 with one client", value=median(waits), unit="µs", baseline=median(base_waits)
        ),
        Number(what=f"{name}: added at p50", value=median(added), unit="µs", most=most),
    ]
