"""Memory of an idle server with ten functions; baseline: one Starlette application in uvicorn.

Private memory is what would come back if the process ended. Our processes hide their
memory, so only root can read it: for others there is no number but the resident size, which
counts what is shared with the template in every worker again.
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path

import psutil

from bench import servers
from bench.client import Client
from bench.load import ROOT, all_good
from bench.servers import Server
from bench.table import Number

FUNCTIONS = 10

_PRIVATE = re.compile(r"^Private_(?:Clean|Dirty): +(\d+) kB", re.MULTILINE)

_PROPORTIONAL = re.compile(r"^Pss: +(\d+) kB", re.MULTILINE)


def measure() -> list[Number]:
    """Every function is asked once, so that it has what it takes to answer."""
    names = [f"hello{number}" for number in range(FUNCTIONS)]
    source = (ROOT / "functions" / "hello" / "index.py").read_text()
    with (
        servers.embedding_project(dict.fromkeys(names, source)) as root,
        servers.serve_models(root) as ours,
        servers.baseline() as plain,
    ):
        for name in names:
            ask_once(ours, servers.call(name, b'{"name":"Functions"}'))
        ask_once(plain, servers.HELLO)
        family = {ours.process.pid: "supervisor", **ours.family()}
        return [*private(family, plain.process.pid), *resident(family, plain.process.pid)]


def ask_once(server: Server, payload: bytes) -> None:
    all_good(Client(server.plan(payload, requests=1)).run())


def private(family: dict[int, str], plain: int) -> list[Number]:
    try:
        sizes = {pid: read_mb(pid, _PRIVATE) for pid in (*family, plain)}
    except PermissionError:
        print("memory: run as root to see private memory", file=sys.stderr)
        return []
    workers = [sizes[pid] for pid, name in family.items() if name.startswith("fn:")]
    others = [(name, sizes[pid]) for pid, name in family.items() if not name.startswith("fn:")]
    return [
        Number(
            what=f"private, a worker (median of {len(workers)})",
            value=statistics.median(workers),
            unit="MB",
            baseline=sizes[plain],
            most=6.0,
        ),
        Number(what="private, the largest worker", value=max(workers), unit="MB", most=6.0),
        *(
            Number(what=f"private, {name.removeprefix('fn-')}", value=size, unit="MB")
            for name, size in others
        ),
        Number(
            what="all together, shared pages counted once",
            value=sum(read_mb(pid, _PROPORTIONAL) for pid in family),
            unit="MB",
        ),
    ]


def resident(family: dict[int, str], plain: int) -> list[Number]:
    sizes = {pid: psutil.Process(pid).memory_info().rss / 1e6 for pid in (*family, plain)}
    workers = [sizes[pid] for pid, name in family.items() if name.startswith("fn:")]
    return [
        Number(what="resident, a worker", value=statistics.median(workers), unit="MB", baseline=sizes[plain]),
        *(
            Number(what=f"resident, {name.removeprefix('fn-')}", value=sizes[pid], unit="MB")
            for pid, name in family.items()
            if not name.startswith("fn:")
        ),
    ]


def read_mb(pid: int, sizes: re.Pattern[str]) -> float:
    """Part of a process's memory, in MB.

    Raises:
        PermissionError: the process hides its memory and we are not root.
    """
    kilobytes = sizes.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())
    return sum(int(number) for number in kilobytes) * 1024 / 1e6
