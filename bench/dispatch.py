"""Hello through gateway and worker, with keys checked and requests logged; baseline: uvicorn alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from bench import servers
from bench.servers import Server
from bench.table import Number
from bench.traffic import drive, median_us, rate

CONNECTIONS = 32
ROUNDS = 12
SECONDS = 0.8

APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def hello(request):
    data = await request.json() if await request.body() else {}
    return JSONResponse({"message": f"Hello {data.get('name', 'World')}!"})


app = Starlette(routes=[Route("/", hello, methods=["POST"])])
"""


T = TypeVar("T")


class Round(NamedTuple):
    """What one round of many clients says: requests per second, CPU per request in µs by process."""

    rate: float
    cpu: dict[str, float]


def measure() -> list[Number]:
    """Rates and latencies, in turns: a round of each server after a round of the other."""
    app = servers.call("app", b'{"name":"Functions"}', "/")
    with (
        servers.project({"hello": "", "app": APP}) as root,
        servers.serve(root) as ours,
        servers.baseline() as plain,
    ):
        lanes = [(plain, servers.HELLO), (ours, servers.HELLO), (ours, app)]
        busy = in_turns(lanes, throughput)
        alone = in_turns(lanes, latency)
    return [
        *compared("hello", busy[0], busy[1], alone[0], alone[1], least=60.0, most=200.0),
        *costs(busy[0], busy[1]),
        *compared("the same app, exported", busy[0], busy[2], alone[0], alone[2]),
    ]


def in_turns(lanes: list[tuple[Server, bytes]], measured: Callable[[Server, bytes], T]) -> list[list[T]]:
    """What each lane measured, round by round; a round before that warms them."""
    for server, payload in lanes:
        drive(server.plan(payload, connections=CONNECTIONS, seconds=0.4))
    results = [[measured(server, payload) for server, payload in lanes] for _ in range(ROUNDS)]
    return [list(column) for column in zip(*results, strict=True)]


def throughput(server: Server, payload: bytes) -> Round:
    before = server.cpu()
    samples = drive(server.plan(payload, connections=CONNECTIONS, seconds=SECONDS))
    used = {name: after - before.get(name, 0.0) for name, after in server.cpu().items()}
    return Round(rate(samples), {name: seconds * 1e6 / len(samples) for name, seconds in used.items()})


def latency(server: Server, payload: bytes) -> float:
    return median_us(drive(server.plan(payload, seconds=SECONDS / 2)))


def compared(
    name: str,
    base: list[Round],
    ours: list[Round],
    base_alone: list[float],
    alone: list[float],
    *,
    least: float | None = None,
    most: float | None = None,
) -> list[Number]:
    """The medians, and the medians of what each pair of rounds says."""
    median = statistics.median
    shares = [100 * pair[1].rate / pair[0].rate for pair in zip(base, ours, strict=True)]
    added = [pair[1] - pair[0] for pair in zip(base_alone, alone, strict=True)]
    return [
        Number(
            what=f"{name}: requests/s, {CONNECTIONS} connections",
            value=median(each.rate for each in ours),
            unit="/s",
            baseline=median(each.rate for each in base),
        ),
        Number(what=f"{name}: share of the baseline", value=median(shares), unit="%", least=least),
        Number(what=f"{name}: p50, one client", value=median(alone), unit="µs", baseline=median(base_alone)),
        Number(what=f"{name}: added at p50", value=median(added), unit="µs", most=most),
    ]


def costs(base: list[Round], ours: list[Round]) -> list[Number]:
    """CPU per request: what else runs on the machine moves it less than it moves rates."""

    def of(rounds: list[Round], *names: str) -> float:
        return statistics.median(sum(each.cpu[name] for name in names or each.cpu) for each in rounds)

    return [
        Number(what="hello: CPU per request, gateway", value=of(ours, "fn-gateway"), unit="µs"),
        Number(what="hello: CPU per request, all", value=of(ours), unit="µs", baseline=of(base)),
    ]
