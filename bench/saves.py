"""A hundred saves of a function that gets fifty requests per second.

Each save replaces two files of the function, the module that its handler imports while it
answers and then the entry file. A response that joins files which were never on disk
together is a mix of versions.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from bench import servers
from bench.servers import Server
from bench.table import Number
from bench.traffic import percentile

SAVES = 100
RATE = 50.0
CLIENTS = 5

ENTRY = """
async def handler(request):
    from . import part
    return "{version} " + part.VERSION
"""
PART = 'VERSION = "{version}"\n'


class Answer(NamedTuple):
    """One request: when its answer was there, and the versions of the two files in it.

    Attributes:
        failed: what came instead; empty: an answer.
    """

    at: float
    entry: int = -1
    part: int = -1
    failed: str = ""

    @property
    def mixed(self) -> bool:
        """The files were never on disk together: the part is saved just before the entry."""
        return not self.failed and self.part not in (self.entry, self.entry + 1)


def measure(saves: int = SAVES) -> list[Number]:
    """Save again as soon as the last save is served."""
    with servers.project({"edited": ENTRY.format(version=0)}) as root:
        save(root, 0)
        with servers.serve(root) as server:
            servers.eventually(lambda: server.metric()["edited"]["state"] == "ready", "the function")
            before = settled(server)
            with Visitors(server) as visitors:
                moments = [visitors.save(root, version) for version in range(1, saves + 1)]
            after = settled(server)
    return results(moments, visitors.answers, before, after)


def results(moments: list[float], answers: list[Answer], before: float, after: float) -> list[Number]:
    """What came of it.

    Args:
        moments: when each version was saved.
        before, after: memory in MB.
    """
    delays = [served(version, moment, answers) for version, moment in enumerate(moments, 1)]
    failed = [answer.failed for answer in answers if answer.failed]
    told = f" ({', '.join(sorted(set(failed)))})" if failed else ""
    mixed = sum(answer.mixed for answer in answers)
    return [
        Number(what=f"failed, of {len(answers)} requests{told}", value=len(failed), unit="", most=0),
        Number(what="answers that mix versions", value=mixed, unit="", most=0),
        Number(what="save to its first answer: p50", value=percentile(delays, 50), unit="s"),
        Number(what="save to its first answer: p95", value=percentile(delays, 95), unit="s", most=1.0),
        Number(what="memory after, more than before", value=after - before, unit="MB", most=20.0),
    ]


def served(version: int, moment: float, answers: list[Answer]) -> float:
    """Seconds from a save to the first answer of this version, or of a later one."""
    return min(answer.at for answer in answers if answer.entry >= version) - moment


def save(root: Path, version: int) -> None:
    """Replace both files, as editors do: by a new one of the same name."""
    folder = root / "functions" / "edited"
    for name, text in (("part.py", PART), ("index.py", ENTRY)):
        beside = folder / f"{name}.tmp"
        beside.write_text(text.format(version=version))
        beside.replace(folder / name)


def settled(server: Server) -> float:
    """MB of memory of all processes, once the old versions have left."""

    def one_worker() -> bool:
        return list(server.family().values()).count("fn:edited") == 1

    servers.eventually(one_worker, "the end of the old workers")
    return sum(memory(pid) for pid in server.family()) / 1e6


def memory(pid: int) -> int:
    """Bytes of a process; 0: it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        size: int = psutil.Process(pid).memory_info().rss
        return size
    return 0


class Visitors:
    """Clients that call the function at a steady rate, whatever becomes of their requests."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self.answers: list[Answer] = []
        self._threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def save(self, root: Path, version: int) -> float:
        """Save a version, and wait until one of them got it; when it was saved."""
        save(root, version)
        moment = time.monotonic()
        servers.eventually(lambda: any(answer.entry >= version for answer in self.answers[-50:]), "the save")
        return moment

    def _visit(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=20)
        with contextlib.closing(connection):
            for moment in self._moments(number):
                time.sleep(max(moment - time.monotonic(), 0))
                self.answers.append(self._ask(connection))

    def _moments(self, number: int) -> Iterator[float]:
        """When to call: the clients take turns."""
        began, every = time.monotonic() + number / RATE, CLIENTS / RATE
        count = 0
        while not self._over.is_set():
            yield began + count * every
            count += 1

    def _ask(self, connection: http.client.HTTPConnection) -> Answer:
        try:
            connection.request("GET", "/functions/v1/edited", headers=servers.bearer("anon"))
            response = connection.getresponse()
            text = response.read().decode()
        except OSError as error:
            connection.close()
            return Answer(time.monotonic(), failed=type(error).__name__)
        if response.status != 200:
            return Answer(time.monotonic(), failed=f"{response.status} {response.headers['sb-error-code']}")
        entry, part = text.split()
        return Answer(time.monotonic(), int(entry), int(part))
