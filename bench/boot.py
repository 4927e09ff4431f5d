"""Workers forked anew; baseline: a fresh interpreter that imports what a worker needs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import servers
from bench.client import Client
from bench.servers import Server, eventually
from bench.table import Number
from bench.traffic import ROOT, all_good, percentile

KILLS = 30
SAVES = 10
SPAWNS = 10


def measure() -> list[Number]:
    """Kill the worker again and again, then save the function again and again."""
    spawns = [spawn() for _ in range(SPAWNS)]
    with servers.project({"hello": ""}) as root, servers.serve(root) as server:
        first = server.metric()["hello"]["boot_ms"]
        kills = [kill(server) for _ in range(KILLS)]
        saves = [save(server, root) for _ in range(SAVES)]
    boots = [*first, *(boot for boot, _ in kills), *(boot for boot, _ in saves)]
    return [
        Number(
            what=f"fork to ready, p50 of {len(boots)}",
            value=statistics.median(boots),
            unit="ms",
            baseline=statistics.median(spawns),
            most=10.0,
        ),
        Number(what="fork to ready, p90", value=percentile(boots, 90), unit="ms"),
        Number(
            what="from SIGKILL to the next answer, p50",
            value=statistics.median(back for _, back in kills),
            unit="ms",
        ),
        Number(
            what="from save to the new version's answer, p50",
            value=statistics.median(back for _, back in saves),
            unit="ms",
        ),
    ]


def spawn() -> float:
    """What a worker would cost without a template to fork, in ms."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import runtime.worker.template"], cwd=ROOT, check=True)
    return (time.monotonic() - began) * 1000


def kill(server: Server) -> tuple[float, float]:
    """The new worker's own boot, and the time from the kill to an answer, in ms."""
    [pid] = server.metric()["hello"]["pids"]
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    [answer] = all_good(Client(server.plan(servers.HELLO, requests=1)).run())
    return boot_after(server, pid), (answer.ended - killed) * 1000


def save(server: Server, root: Path) -> tuple[float, float]:
    """The new generation's own boot, and the time from the save to its answer, in ms."""
    before = server.metric()["hello"]
    version = f"Version {time.monotonic_ns()}"
    saved = time.monotonic()
    (root / "functions" / "hello" / "index.py").write_text(
        f"async def handler(request):\n    return {{'message': '{version}'}}\n"
    )
    eventually(lambda: version in server.ask("hello"), "the saved version's answer")
    return boot_after(server, before["pids"][0]), (time.monotonic() - saved) * 1000


def boot_after(server: Server, pid: int) -> float:
    """How long the worker booted that serves in the place of `pid`."""

    def found() -> float:
        metric = server.metric()["hello"]
        fresh = [ms for ms, other in zip(metric["boot_ms"], metric["pids"], strict=True) if other != pid]
        return float(fresh[0]) if fresh else 0.0

    return eventually(found, "a new worker")
