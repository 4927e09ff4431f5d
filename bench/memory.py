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
from bench.servers import Server
from bench.table import Number
from bench.traffic import ROOT, all_good

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
        family, uvicorn = ours.family(), plain.process.pid
        resident = {pid: psutil.Process(pid).memory_info().rss / 1e6 for pid in (*family, uvicorn)}
        return [*private(family, uvicorn), *by_process("resident", family, resident, resident[uvicorn])]


def ask_once(server: Server, payload: bytes) -> None:
    all_good(Client(server.plan(payload, requests=1)).run())


def private(family: dict[int, str], uvicorn: int) -> list[Number]:
    """What only root can see."""
    try:
        sizes = {pid: read_mb(pid, _PRIVATE) for pid in (*family, uvicorn)}
        together = sum(read_mb(pid, _PROPORTIONAL) for pid in family)
    except PermissionError:
        print("memory: run as root to see private memory", file=sys.stderr)
        return []
    return [
        *by_process("private", family, sizes, sizes[uvicorn], most=6.0),
        Number(what="all together, shared pages counted once", value=together, unit="MB"),
    ]


def by_process(
    kind: str, family: dict[int, str], sizes: dict[int, float], baseline: float, most: float | None = None
) -> list[Number]:
    """The median worker, beside the baseline and the bound, and then the others."""
    workers = [sizes[pid] for pid, name in family.items() if name.startswith("fn:")]
    return [
        Number(
            what=f"{kind}: one of {len(workers)} workers",
            value=statistics.median(workers),
            unit="MB",
            baseline=baseline,
            most=most,
        ),
        *(
            Number(what=f"{kind}: {name.removeprefix('fn-')}", value=sizes[pid], unit="MB")
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
