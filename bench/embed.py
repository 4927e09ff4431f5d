"""Embeddings through gateway, worker and engine; baseline: onnxruntime alone, one text at a time."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from bench import servers
from bench.servers import Server
from bench.table import Number
from bench.traffic import ROOT, drive, median_us, rate

ROUNDS = 4
SECONDS = 2.0
CONNECTIONS = 16
LIST = 32

# From three words to a passage of a hundred, as callers send them.
_SENTENCE = "An edge function is a small program that runs close to its callers and answers at once. "
TEXTS = ["Luke, I am your father", "a quick fox", *(_SENTENCE * count for count in (1, 2, 1, 3, 1, 6))]

SINGLE = [servers.call("embed", json.dumps({"input": text}).encode()) for text in TEXTS]
MANY = servers.call("embed", json.dumps({"input": TEXTS * (LIST // len(TEXTS))}).encode())


def measure() -> list[Number]:
    """Rounds of the same texts in turns: alone, then through the server in three ways."""
    folder = Path(servers.models().name) / "functions" / "models" / servers.MODEL
    with servers.embedding_project({"embed": ""}) as root, servers.serve_models(root) as server:
        drive(server.plan(*SINGLE, connections=CONNECTIONS, seconds=0.5))
        rounds = [(direct(folder), *through(server)) for _ in range(ROUNDS)]
    times, alone, many, lists = zip(*rounds, strict=True)
    base_us = statistics.median(statistics.median(each) for each in times) * 1e6
    base_rate = statistics.median(len(each) / sum(each) for each in times)
    shares = [100 * ours * sum(each) / len(each) for ours, each in zip(many, times, strict=True)]
    return [
        Number(what="one client: p50", value=statistics.median(alone), unit="µs", baseline=base_us),
        Number(
            what=f"{CONNECTIONS} clients: texts/s",
            value=statistics.median(many),
            unit="/s",
            baseline=base_rate,
        ),
        Number(
            what=f"{CONNECTIONS} clients: share of the baseline", value=statistics.median(shares), unit="%"
        ),
        Number(
            what=f"one client, lists of {LIST}: texts/s",
            value=statistics.median(lists),
            unit="/s",
            baseline=base_rate,
        ),
    ]


def direct(folder: Path) -> list[float]:
    """Seconds per text in a plain process."""
    command = [sys.executable, "-m", "bench.direct", str(folder), str(SECONDS)]
    done = subprocess.run(
        command, cwd=ROOT, check=True, input=json.dumps(TEXTS), stdout=subprocess.PIPE, text=True
    )
    times: list[float] = json.loads(done.stdout)
    return times


def through(server: Server) -> tuple[float, float, float]:
    """One client's p50 in µs, many clients' texts per second, and one client's with lists."""
    alone = median_us(drive(server.plan(*SINGLE, seconds=SECONDS / 2)))
    many = rate(drive(server.plan(*SINGLE, connections=CONNECTIONS, seconds=SECONDS)))
    lists = rate(drive(server.plan(MANY, seconds=SECONDS))) * LIST
    return alone, many, lists
