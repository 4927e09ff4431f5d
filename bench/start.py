"""From `functions serve` to the first vector, and what the engine's loading takes of that."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from bench import gte, servers
from bench.client import Client
from bench.table import Number
from bench.traffic import ROOT, all_good

STARTS = 7
LOADS = 7

_LOAD = """
import sys, time
from pathlib import Path
from runtime.engine.model import EmbeddingModel
from runtime.engine.models.card import read_card
from runtime.engine.service import cores
began = time.perf_counter()
model = EmbeddingModel(read_card(Path(sys.argv[1])), cores=cores())
print(time.perf_counter() - began)
"""


def measure() -> list[Number]:
    """Of gte-small's shape, from a disk that has been read before."""
    loads = [load() for _ in range(LOADS)]
    with servers.project({"embed": ""}, "", f"EMBEDDING_MODEL={gte.GTE}\n") as root:
        starts = [start(str(root)) for _ in range(STARTS)]
    ready, vector = (median(times) for times in zip(*starts, strict=True))
    return [
        Number(
            what="the engine's load after its imports, with a first run",
            value=1000 * median(loads),
            unit="ms",
            most=150.0,
        ),
        Number(what="from `functions serve` to its banner", value=ready, unit="s"),
        Number(what="from `functions serve` to the first vector", value=vector, unit="s", most=1.2),
    ]


def load() -> float:
    """Seconds that a fresh process takes for it, after its imports."""
    command = [sys.executable, "-c", _LOAD, str(gte.folder(gte.GTE))]
    return float(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def start(root: str) -> tuple[float, float]:
    """Seconds from the start of the process to its banner, and to the first vector."""
    command = ["runtime.cli.main", "serve", "--port", "0", "--root", root]
    environ = {"JWT_SECRET": servers.SECRET, "XDG_DATA_HOME": str(gte.data_home())}
    with servers.running(servers.Server(command, environ)) as server:
        text = servers.call("embed", b'{"input":"Luke, I am your father"}')
        [sample] = all_good(Client(server.plan(text, requests=1)).run())
    return server.ready - server.started, sample.ended - server.started
