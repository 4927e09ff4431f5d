"""A function that does everything wrong, round by round, and a neighbour; baseline: the neighbour alone.

The neighbour is hello, asked at a steady rate. Before each round it is asked the same while the
other function rests. How late an answer to a client of the hostile function is counts from when the
function was over its limit, or else did its damage: it reports that itself. What it leaves behind
is counted after its last worker of the round has ended.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx2
import psutil

from bench import servers
from bench.chaos import told
from bench.reports import SAY, Reports
from bench.servers import Server
from bench.table import Number
from bench.traffic import Load, Sample, percentile

RATE = 100.0
CONNECTIONS = 8
CLIENTS = 4
PAUSE_S = 0.05  # between requests of one of them: it is about harm, not about load
SHARE = 0.6  # of a round, in which the hostile function is asked
LATE_S = 0.25
P99_MS = 10.0
GONE_WITHIN_S = 2.0
CPU_MS = 500
MEMORY_MB = 128
TMP_MB = 32
TIMEOUT_S = 2.0
PROCESSES = 256  # that a worker may have; the bomb goes on to four times as many
BOMB = 4 * PROCESSES
STRAY = "bench-stray"  # what its processes call themselves
JUNK = "bench-junk"  # what its files are called

CONFIG = f"""{servers.NO_MODELS}
[functions.hostile]
cpu_ms = {CPU_MS}
memory_mb = {MEMORY_MB}
tmp_mb = {TMP_MB}
timeout_s = {TIMEOUT_S}
"""

# Each of its ways says when it goes over the limit that will be named: again and again, as long as
# it does not, or beforehand, in so many seconds.
HOSTILE = f'''
import asyncio, ctypes, mmap, os, re, signal, socket, time
{SAY}
CPU_S, TIMEOUT_S = {CPU_MS / 1000}, {TIMEOUT_S}
MB = 1 << 20
kept = []
libc = ctypes.CDLL(None)


def spin():
    while True:
        pass


class Way:
    def __init__(self, request):
        self.port, self.number = request.query_params["port"], request.query_params["number"]
        self.used = 0.0

    def over(self, seconds=0.0):
        say(self.port, f"{{self.number}} {{time.monotonic() + seconds}}")

    def burn(self):
        began = now = time.thread_time()
        while now - began < 0.005:
            now = time.thread_time()
        self.used += now - began
        if self.used < CPU_S:
            self.over()

    def spin(self):
        while True:
            self.burn()

    async def spins(self):
        self.spin()

    async def spins_in_a_thread(self):
        await asyncio.to_thread(self.spin)

    async def spins_in_c(self):
        began = time.thread_time()

        def progress(*_):
            if time.thread_time() - began < CPU_S:
                self.over()

        signal.signal(signal.SIGPROF, progress)
        signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)
        re.match(r"(a+)+$", "a" * 60 + "b")

    async def spins_in_steps(self):
        while True:
            self.burn()
            await asyncio.sleep(0)

    async def spins_in_children(self):
        self.over(TIMEOUT_S)
        for _ in range(4):
            child(spin)
        await asyncio.sleep(3600)

    async def allocates(self):
        while True:
            kept.append(b"x" * MB)
            if len(kept) <= {MEMORY_MB}:
                self.over()

    async def shares(self):
        area = mmap.mmap(-1, 4 * {MEMORY_MB} * MB)
        kept.append(area)
        for at in range(0, len(area), mmap.PAGESIZE):
            area[at] = 1
            if at % MB == 0 and at <= {MEMORY_MB} * MB:
                self.over()

    async def raises(self):
        self.over()
        raise RuntimeError("on purpose")

    async def segfaults(self):
        self.over()
        ctypes.string_at(0)

    async def exits(self):
        self.over()
        os._exit(0)

    async def blocks(self):
        self.over(TIMEOUT_S)
        time.sleep(3600)

    async def fills_its_folder(self):
        for number in range(10_000):
            with open(f"{JUNK}-{{number}}", "wb") as file:
                file.write(bytes(MB))
            if number <= {TMP_MB}:
                self.over()
            await asyncio.sleep(0)

    async def fills_shared_memory(self):
        with open(f"/dev/shm/{JUNK}-{{os.getpid()}}", "wb") as file:
            for number in range({TMP_MB}):
                file.write(bytes(MB))
        self.over()
        os._exit(0)

    async def opens_sockets(self):
        self.over()
        for _ in range(10_000):
            kept.append(socket.socket())
            self.over()

    async def forks(self):
        for _ in range(20):
            child(signal.pause)
        self.over()
        os._exit(0)

    async def fork_bombs(self):
        born = mmap.mmap(-1, {BOMB})
        while (count := born.find(b"\\0")) >= 0:
            born[count] = 1
            if count < {PROCESSES}:
                self.over()
            if os.fork() == 0:
                rename()
        signal.pause()

    async def daemonizes(self):
        for _ in range(20):
            if os.fork() == 0:
                rename()
                os.setsid()
                child(signal.pause)
                os._exit(0)
        self.over()
        os._exit(0)


def rename():
    libc.prctl(15, b"{STRAY}", 0, 0, 0)


def child(work):
    if os.fork() == 0:
        rename()
        work()


async def handler(request):
    way = request.query_params["way"]
    if way == "behaves":
        return "well"
    await getattr(Way(request), way)()
    return "survived"
'''
WAYS = tuple(re.findall(r"    async def (\w+)\(self\)", HOSTILE))
NEED_A_USER_OF_THEIR_OWN = {"fills_shared_memory"}  # else nobody can tell whose the file is
SECONDS = 10.0 * len(WAYS)


class Answer(NamedTuple):
    """What a client of the hostile function got.

    Attributes:
        late: seconds from when the function was over its limit; None: it had not begun.
    """

    outcome: str
    late: float | None

    @property
    def right(self) -> bool:
        return self.outcome in ("500 WORKER_ERROR", "546 WORKER_LIMIT")


class Round(NamedTuple):
    """One way of being hostile, and what came of it.

    Attributes:
        before, meanwhile: what the neighbour's clients got.
        left: processes and files that were there after its end.
    """

    way: str
    before: Sequence[Sample]
    meanwhile: Sequence[Sample]
    answers: Sequence[Answer]
    left: Sequence[str]


def measure(seconds: float = SECONDS) -> list[Number]:
    """One way after the other."""
    with house() as (server, temp, root):
        gateway = server.pid_of("fn-gateway")
        rounds = [play(server, temp, root, way, seconds / len(WAYS)) for way in ways()]
        same = server.pid_of("fn-gateway") == gateway
    base = [sample for each in rounds for sample in each.before]
    samples = [sample for each in rounds for sample in (*each.before, *each.meanwhile)]
    failed = [sample for sample in samples if not sample.ok]
    return [
        *(number for each in rounds for number in results(each, base)),
        Number(what=f"hello: failed, of {len(samples)}{told(failed)}", value=len(failed), unit="", most=0),
        Number(what="gateways that ended", value=int(not same), unit="", most=0),
    ]


def ways() -> list[str]:
    """Those that can be tried as this user."""
    return [way for way in WAYS if os.geteuid() == 0 or way not in NEED_A_USER_OF_THEIR_OWN]


@contextlib.contextmanager
def house() -> Iterator[tuple[Server, Path, Path]]:
    """A server with the two functions, the folder for its temporary files, and the project."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as temp,
        servers.project({"hello": "", "hostile": HOSTILE}, CONFIG) as root,
    ):
        os.chmod(temp, 0o755)  # workers have users of their own
        with servers.serve(root, TMPDIR=temp) as server:
            servers.eventually(lambda: server.metric()["hostile"]["state"] == "ready", "the function")
            yield server, Path(temp), root


def play(server: Server, temp: Path, root: Path, way: str, seconds: float) -> Round:
    """One round: the neighbour alone, then beside it, then the end of its workers."""
    with neighbour(server, (1 - SHARE) * seconds) as load:
        before = load.samples()
    with neighbour(server, SHARE * seconds) as load, Reports() as reports:
        visitors = Visitors(server, way, reports.port, SHARE * seconds)
        answers = [
            Answer(outcome, late(number, at, reports.said)) for number, outcome, at in visitors.answers()
        ]
        meanwhile = load.samples()
    return Round(way, before, meanwhile, answers, left_behind(server, temp, root))


def neighbour(server: Server, seconds: float) -> Load:
    return Load(server.plan(servers.HELLO, connections=CONNECTIONS, rate=RATE, seconds=seconds))


def late(number: int, at: float, reports: Sequence[str]) -> float | None:
    """Seconds from the last report of a request to its answer."""
    moments = [float(text.split()[1]) for text in reports if text.startswith(f"{number} ")]
    return at - moments[-1] if moments else None


class Visitors:
    """Clients of the hostile function, who never give up.

    Args:
        port: where the function reports to.
    """

    def __init__(self, server: Server, way: str, port: int, seconds: float) -> None:
        self._server, self._way, self._port = server, way, port
        self._end = time.monotonic() + seconds
        self._numbers = itertools.count()

    def answers(self) -> list[tuple[int, str, float]]:
        """Number, outcome and moment of each answer."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            return [answer for each in pool.map(self._visit, range(CLIENTS)) for answer in each]

    def _visit(self, _: int) -> list[tuple[int, str, float]]:
        answers = []
        with httpx2.Client(headers=servers.bearer("anon"), timeout=30.0) as client:
            while time.monotonic() < self._end:
                number = next(self._numbers)
                answers.append((number, self._ask(client, number), time.monotonic()))
                time.sleep(PAUSE_S)
        return answers

    def _ask(self, client: httpx2.Client, number: int) -> str:
        query: dict[str, str | int] = {"way": self._way, "port": self._port, "number": number}
        try:
            answer = client.get(f"http://127.0.0.1:{self._server.port}/functions/v1/hostile", params=query)
        except httpx2.TransportError as error:
            return type(error).__name__
        return f"{answer.status_code} {answer.headers.get('sb-error-code', '')}".rstrip()


def left_behind(server: Server, temp: Path, root: Path) -> list[str]:
    """What is still there some time after its workers had to make way for a new version."""
    before = workers(server)
    with open(root / "functions" / "hostile" / "index.py", "a", encoding="utf-8") as file:
        file.write("# saved\n")
    servers.eventually(lambda: not before & workers(server), "the end of its workers")
    with contextlib.suppress(RuntimeError):
        servers.eventually(lambda: not traces(temp), "the end of what it left", GONE_WITHIN_S)
    return traces(temp)


def workers(server: Server) -> set[int]:
    return {pid for pid, name in server.family().items() if name == "fn:hostile"}


def traces(temp: Path) -> list[str]:
    """Its processes and files."""
    strays = [f"process {found.pid}" for found in psutil.process_iter(["name"]) if is_stray(found)]
    files = [str(path) for folder in (temp, Path("/dev/shm")) for path in folder.rglob(f"{JUNK}-*")]
    return strays + files


def is_stray(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.info["name"] == STRAY and process.status() != psutil.STATUS_ZOMBIE
    return False


def results(each: Round, base: Sequence[Sample]) -> Iterator[Number]:
    """The rows of a round.

    Args:
        base: what the neighbour's clients got whenever they were alone.
    """
    way = each.way.replace("_", " ")
    for percent, most in ((50, None), (99, max(2 * milliseconds(base, 99), P99_MS))):
        yield Number(
            what=f"{way}: hello, p{percent}",
            value=milliseconds(each.meanwhile, percent),
            unit="ms",
            baseline=milliseconds(base, percent),
            most=most,
        )
    outcomes = Counter(answer.outcome for answer in each.answers)
    listed = ", ".join(f"{count} × {outcome}" for outcome, count in outcomes.items())
    wrong = sum(not answer.right for answer in each.answers)
    yield Number(what=f"{way}: wrong answers ({listed})", value=wrong, unit="", most=0)
    delays = [answer.late * 1000 for answer in each.answers if answer.late is not None]
    if delays:
        yield Number(what=f"{way}: the latest answer", value=max(delays), unit="ms", most=LATE_S * 1000)
    yield Number(what=f"{way}: left behind{listing(each.left)}", value=len(each.left), unit="", most=0)


def listing(left: Sequence[str]) -> str:
    return f" ({left[0]} …)" if left else ""


def milliseconds(samples: Sequence[Sample], percent: float) -> float:
    return percentile((sample.seconds * 1000 for sample in samples), percent)
