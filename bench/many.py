"""A server with two hundred functions that are all warm; baseline: a server with one.

Private memory is what would come back if a process ended; only root can see it.
"""

from __future__ import annotations

import statistics
import time

from bench import servers
from bench.memory import ask_once
from bench.processes import Look, look_at
from bench.servers import Server
from bench.table import Number
from bench.traffic import ROOT

FUNCTIONS = 200
STARTS = 3
IDLE_S = 5.0


def measure(functions: int = FUNCTIONS) -> list[Number]:
    """Starts in turns; at the last one, every function is asked once and then left alone."""
    names = [f"hello{number}" for number in range(functions)]
    source = (ROOT / "functions" / "hello" / "index.py").read_text()
    with servers.project(dict.fromkeys(names, source)) as full, servers.project({"hello0": source}) as single:
        starts = []
        for _ in range(STARTS - 1):
            with servers.serve(single) as one, servers.serve(full) as many:
                starts.append((boot_s(one), boot_s(many)))
        with servers.serve(single) as one, servers.serve(full) as many:
            starts.append((boot_s(one), boot_s(many)))
            alone, together = warm(one, names[:1]), warm(many, names)
            numbers = [*memory(alone, together, functions), idle(one, many, functions)]
    return [boots(starts, functions), *numbers]


def boot_s(server: Server) -> float:
    """From the begin of its process to its banner, which it prints when every function is ready."""
    failed = [name for name, found in server.metric().items() if found["state"] != "ready"]
    if failed:
        raise RuntimeError(f"not ready: {', '.join(failed)}\n{server.log}")
    return server.ready - server.started


def boots(starts: list[tuple[float, float]], functions: int) -> Number:
    one, many = (statistics.median(column) for column in zip(*starts, strict=True))
    what = f"start to {functions} functions ready, p50 of {len(starts)}"
    return Number(what=what, value=many, unit="s", baseline=one, most=3.0)


def warm(server: Server, names: list[str]) -> list[Look]:
    """What its processes have once each function has answered."""
    for name in names:
        ask_once(server, servers.call(name, b'{"name":"Functions"}'))
    return list(look_at(server).values())


def memory(alone: list[Look], together: list[Look], functions: int) -> list[Number]:
    """Of a worker, of the gateway, and of everything."""
    if any(seen.private is None for seen in together):
        print("many: run as root to see private memory", flush=True)
        return []
    workers = [seen.private or 0 for seen in together if seen.name.startswith("fn:")]
    more = sum(seen.proportional or 0 for seen in together) - sum(seen.proportional or 0 for seen in alone)
    return [
        Number(what="private: a worker, p50", value=statistics.median(workers), unit="MB", most=6.0),
        Number(what="private: a worker, the largest", value=max(workers), unit="MB"),
        Number(what="private: gateway", value=_gateway(together), unit="MB", baseline=_gateway(alone)),
        Number(
            what="each function more, all processes, shared pages once",
            value=more / (functions - 1),
            unit="MB",
            most=6.0,
        ),
    ]


def _gateway(looks: list[Look]) -> float:
    return next(seen.private or 0 for seen in looks if seen.name == "fn-gateway")


def idle(one: Server, many: Server, functions: int) -> Number:
    """Processor time while nobody asks for anything."""
    before = [sum(server.cpu().values()) for server in (one, many)]
    time.sleep(IDLE_S)
    after = [sum(server.cpu().values()) for server in (one, many)]
    alone, together = ((b - a) / IDLE_S * 1000 for a, b in zip(before, after, strict=True))
    what = f"processor time of {functions} idle functions"
    return Number(what=what, value=together, unit="ms/s", baseline=alone, most=50.0)
