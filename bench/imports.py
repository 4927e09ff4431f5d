"""`functions --help`, from typing it to its end; baseline: the interpreter with nothing to do."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.table import Number
from bench.traffic import ROOT

RUNS = 20

_SCRIPT = "from runtime.cli.main import run; run(['--help'])"
_COUNT = "import sys; print(len(sys.modules), file=sys.stderr)"


def measure() -> list[Number]:
    """In turns: one of ours after one of the baseline."""
    pairs = [(wall_ms("pass"), wall_ms(_SCRIPT)) for _ in range(RUNS + 1)][1:]  # the first one warms
    return [
        Number(
            what=f"functions --help, p50 of {RUNS}",
            value=statistics.median(ours for _, ours in pairs),
            unit="ms",
            baseline=statistics.median(bare for bare, _ in pairs),
            most=150.0,
        ),
        Number(what="modules loaded", value=modules(_SCRIPT), unit="", baseline=modules("pass")),
    ]


def wall_ms(script: str) -> float:
    """Milliseconds that a program takes in a process of its own."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - began) * 1000


def modules(script: str) -> int:
    """How many modules are loaded when it ends."""
    command = [sys.executable, "-c", f"{script}\n{_COUNT}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return int(done.stderr)
