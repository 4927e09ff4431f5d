"""Everything at once at 70 % of what the server can do, for long: whatever was taken comes back.

Requests of many kinds, streams that are left, uploads, WebSockets, workers that are replaced,
that crash and that serve one request each, saves of a function. Before and after the load the
server is idle; what it has then is compared. Memory may not grow during the second half.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import msgspec

from bench import servers
from bench.cold import EMBED
from bench.processes import Look, look_at
from bench.servers import Server, eventually
from bench.table import Number
from bench.trend import Slope, slope, sparkline
from bench.visitors import Crew, Errand, Plan, visit
from bench.websockets import ECHO, handshake

MINUTES = 20.0
SHARE = 0.7
VISITORS = 24
WARM_S = 6.0
SAMPLES = 240
LEAST_SAMPLES = 30  # of half of a run: fewer make no line
LEAST_BETWEEN_S = 0.5
SAVE_EVERY_S, CRASH_EVERY_S = 5.0, 11.0
PATIENCE_S = 60.0  # for everything to come back
MOST_SOCKETS = 2 * VISITORS + 2  # of a worker; its last request may not be quite over when the next comes
GROWN_MB = 1.0  # of a process in the second half, beyond what chance explains
SERVED = 0.95  # of the visits that were due

SOURCES = {
    "hello": "",
    "embed": "",
    "echo": ECHO,
    "threads": "def handler(request):\n    return {'sum': sum(range(2000))}\n",
    "brief": "async def handler(request):\n    return {'message': 'Hello!'}\n",
    "raises": "async def handler(request):\n    raise ValueError('as it was asked to')\n",
    "crash": "import os\n\n\nasync def handler(request):\n    os._exit(3)\n",
    "upload": """
async def handler(request):
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return {"size": size}
""",
    "stream": """
import asyncio


async def handler(request):
    while True:
        yield "so it goes on "
        await asyncio.sleep(0.02)
""",
    "later": """
import asyncio
from runtime import wait_until


async def handler(request):
    wait_until(asyncio.sleep(0.05))
    return {"message": "Hello!"}
""",
    "edited": """
import os

VERSION = 0


async def handler(request):
    return os.environ["TMPDIR"]
""",
}
CONFIG = """
[edge_runtime.defaults]
worker_idle_s = 2
[functions.brief]
max_requests = 200
[functions.threads]
concurrency = 2
max_workers = 1
"""
ONESHOT = servers.NO_MODELS + '[edge_runtime]\npolicy = "oneshot"\n'
BODY = b"x" * 300_000
EXPECTED = {"raises": "500", "echo": "101", "nobody": "404"}
KINDS = ("", "oneshot ")  # before the names of a server's processes
_TASKS = re.compile(r"^functions_gateway_tasks (\d+)", re.MULTILINE)

Having = Counter[str]
"""What a server has, by what it is."""


class Sample(NamedTuple):
    """Every process at one moment."""

    at: float
    looks: dict[int, Look]


def measure(minutes: float = MINUTES, share: float = SHARE) -> list[Number]:
    """Find out what the server can do, let it rest, load it, and let it rest again."""
    with (
        servers.embedding_project(SOURCES, CONFIG) as root,
        servers.project({"hello": ""}, ONESHOT) as fresh,
        servers.serve_models(root) as server,
        servers.serve(fresh) as oneshot,
    ):
        house, trouble = [server, oneshot], Trouble(server, root)
        plan = Plan(errands=errands(server, oneshot), visitors=VISITORS, seconds=WARM_S)
        capacity = visit(plan).rate
        trouble.make(save=True, crash=True)
        before = at_rest(house)
        busy = msgspec.structs.replace(plan, seconds=minutes * 60, rate=share * capacity)
        with Crew(busy) as crew:
            samples = watch(crew, house, trouble, busy.seconds)
            report = crew.report()
        after = at_rest(house, before)
    return [
        Number(what="visits per second that it can do", value=capacity, unit="/s"),
        Number(
            what=f"visits per second, of {share * capacity:.0f} that were due",
            value=report.rate,
            unit="/s",
            least=SERVED * share * capacity,
        ),
        *failures(report.outcomes),
        *returned(before, after),
        *slopes(samples),
    ]


# what happens to it


def errands(server: Server, oneshot: Server) -> list[Errand]:
    """The kinds of visits; the weights are a hundred together."""

    def post(name: str, body: bytes = b"{}") -> bytes:
        return servers.call(name, body)

    def errand(weight: float, name: str, payload: bytes = b"", **options: Any) -> Errand:
        return Errand(name=name, port=server.port, payload=payload or post(name), weight=weight, **options)

    return [
        errand(52, "hello", servers.HELLO),
        errand(10, "threads"),
        errand(12, "brief"),
        errand(5, "edited"),
        errand(5, "later"),
        errand(4, "embed", EMBED),
        errand(4, "stream", manner="leave"),
        errand(3, "upload", post("upload", BODY)),
        errand(2, "echo", handshake(), manner="talk"),
        errand(0.5, "raises"),
        errand(0.5, "nobody"),
        Errand(name="oneshot", port=oneshot.port, payload=servers.HELLO, weight=2),
    ]


class Trouble:
    """Saves a function and makes another one crash, now and then."""

    def __init__(self, server: Server, root: Path) -> None:
        self._server, self._root = server, root
        self._saves = itertools.count(time.monotonic_ns())
        self._save_at = self._crash_at = time.monotonic()

    def look(self) -> None:
        """Make trouble, if it is time."""
        now = time.monotonic()
        save, crash = now >= self._save_at, now >= self._crash_at
        self._save_at += SAVE_EVERY_S if save else 0
        self._crash_at += CRASH_EVERY_S if crash else 0
        self.make(save=save, crash=crash)

    def make(self, *, save: bool, crash: bool) -> None:
        """A new version of one function, the end of a worker of another."""
        if save:
            source = SOURCES["edited"].replace("VERSION = 0", f"VERSION = {next(self._saves)}")
            entry = self._root / "functions" / "edited" / "index.py"
            beside = entry.with_name("index.tmp")
            beside.write_text(source)
            beside.replace(entry)
        if crash:
            with contextlib.suppress(httpx2.HTTPStatusError):
                self._server.ask("crash")


def watch(crew: Crew, house: list[Server], trouble: Trouble, seconds: float) -> list[Sample]:
    """Look at every process again and again, as long as the visitors come."""
    samples = []
    pause = max(seconds / SAMPLES, LEAST_BETWEEN_S)
    while crew.running:
        trouble.look()
        samples.append(Sample(time.monotonic(), looks_at(house)))
        crew.wait(pause)
    return samples


# what came of it


def at_rest(house: list[Server], before: Having | None = None) -> Having:
    """What idle servers have; `before` is waited for, for a while."""
    eventually(lambda: all(map(is_idle, house)), "idle servers", PATIENCE_S, step=0.1)
    having = having_of(house)
    deadline = time.monotonic() + PATIENCE_S
    while before is not None and having - before and time.monotonic() < deadline:
        time.sleep(0.5)
        having = having_of(house)
    return having


def is_idle(server: Server) -> bool:
    """Nothing is in flight, and there are no more workers than have to be."""
    busy = ("in_flight", "queued", "websockets", "leaving")
    functions = server.metric().values()
    return all(found["workers"] == 1 and not any(found[key] for key in busy) for found in functions)


def having_of(house: list[Server]) -> Having:
    """Descriptors, threads, processes, tasks and folders.

    A worker's connections with the gateway stay for the next requests, at most as many as there were
    at a time, so they count at neither end.
    """
    having = Having()
    for seen in looks_at(house).values():
        kept = min(seen.sockets or 0, MOST_SOCKETS) if "fn:" in seen.name else 0
        having[f"processes {seen.name}"] += 1
        having[f"threads {seen.name}"] += max(seen.threads - spare_threads(seen.name), 0)
        having[f"descriptors {seen.name}"] += (seen.descriptors or 0) - kept
        having[f"descriptors {kind_of(seen.name)}fn-gateway"] -= kept
    for kind, server in zip(KINDS, house, strict=True):
        [tasks] = _TASKS.findall(server.page("/_internal/metrics"))
        having[f"tasks {kind}fn-gateway"] = int(tasks)
    having["folders of workers"] = folders(house[0])
    return having


def looks_at(house: list[Server]) -> dict[int, Look]:
    """All processes of both servers; their names tell which is whose."""
    return {
        pid: msgspec.structs.replace(seen, name=kind + seen.name)
        for kind, server in zip(KINDS, house, strict=True)
        for pid, seen in look_at(server).items()
    }


def kind_of(name: str) -> str:
    """What `looks_at` put before the name of a process."""
    return KINDS[name.startswith(KINDS[1])]


_MEASURING = 4  # of runtime.gateway.usage and .family


def spare_threads(name: str) -> int:
    """A gateway keeps threads for what blocks, and begins the next of them only when it needs it."""
    if not name.endswith("fn-gateway"):
        return 0
    return min(32, (os.cpu_count() or 1) + 4) + _MEASURING


def folders(server: Server) -> int:
    """How many of its workers have a folder."""
    return len(list(Path(server.ask("edited")).parent.iterdir()))


def failures(outcomes: Mapping[str, Mapping[str, int]]) -> Iterator[Number]:
    """How many visits there were of each kind, and what went wrong."""
    wrong = Counter[str]()
    for name, counts in outcomes.items():
        expected = EXPECTED.get(name, "200")
        wrong.update({f"{name} {outcome}": n for outcome, n in counts.items() if outcome != expected})
    total = sum(sum(counts.values()) for counts in outcomes.values())
    yield Number(what=f"failed, of {total} visits{told(wrong)}", value=wrong.total(), unit="", most=0)


def returned(before: Having, after: Having) -> Iterator[Number]:
    """What there is more of than before."""
    for kind in ("descriptors", "threads", "processes", "tasks", "folders"):
        more = Counter({key: n for key, n in (after - before).items() if key.startswith(kind)})
        had = sum(n for key, n in before.items() if key.startswith(kind))
        names = told(Counter({key.removeprefix(f"{kind} "): n for key, n in more.items()}))
        yield Number(what=f"{kind} more than the {had} before{names}", value=more.total(), unit="", most=0)


def told(counts: Counter[str]) -> str:
    """Counts in words."""
    return f" ({', '.join(f'{n} {name}' for name, n in counts.most_common())})" if counts else ""


def slopes(samples: list[Sample]) -> Iterator[Number]:
    """Of the resident memory of every process that was there all the time in the second half.

    There are none of a run that was too short for them.
    """
    half = samples[len(samples) // 2 :]
    if len(half) < LEAST_SAMPLES:
        return
    steady = set.intersection(*(set(sample.looks) for sample in half))
    times = [sample.at / 3600 for sample in half]
    courses = {pid: [sample.looks[pid].resident for sample in half] for pid in steady}
    for pid in sorted(steady, key=lambda pid: (kind_of(half[0].looks[pid].name), pid)):
        yield grown(half[0].looks[pid].name, times, courses[pid])
    together = [sum(seen.proportional or 0 for seen in sample.looks.values()) for sample in half]
    yield grown("all together, shared once", times, together, least_mb=5 * GROWN_MB)


def grown(name: str, hours: list[float], sizes: list[float], least_mb: float = GROWN_MB) -> Number:
    """What a line through the sizes says, and whether that can be chance."""
    line: Slope = slope(hours, sizes)
    return Number(
        what=f"{name.replace('fn-', '')}: memory {sparkline(sizes)} {sizes[-1]:.1f} MB ± {line.doubt:.1f}/h",
        value=line.value,
        unit="MB/h",
        most=least_mb / (hours[-1] - hours[0]) + 2 * line.doubt,
    )
