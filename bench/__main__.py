"""`python -m bench [NAME …] [--json]`: run the benches and say which bounds are met."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.table import Number, render

BENCHES = (
    "dispatch",
    "websockets",
    "cold",
    "boot",
    "memory",
    "imports",
    "chaos",
    "retire",
    "oneshot",
    "cancel",
    "saves",
    "slow",
    "overload",
    "many",
    "policy",
    "start",
)
LONG = ("embed", "accuracy", "lengths", "load", "hostile", "fuzz", "soak")
"""Only when they are named: they take minutes, and the whole machine."""


def main() -> int:
    """0: every bound is met; 1: one is not."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what the server promises.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(BENCHES)} (none: all of these); {', '.join(LONG)}",
    )
    parser.add_argument(
        "--seconds", type=float, help="load, hostile, overload: how long they shall take, about"
    )
    parser.add_argument("--minutes", type=float, help="soak: how long the load shall last")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.add_argument(
        "--quick", action="store_true", default=None, help="less of embed and lengths: for a look"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where embed writes its picture, as SVG")
    parser.add_argument("--inputs", type=int, metavar="N", help="fuzz: how many")
    parser.add_argument("--seed", type=int, metavar="S", help="fuzz: of its inputs")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="fuzz: this input alone")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {*BENCHES, *LONG}
    if unknown:
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES + LONG)}")
    results: dict[str, list[Number]] = {}
    if not arguments.json:
        print(", ".join(f"{name} {value}" for name, value in machine().items()), flush=True)
    for name in arguments.names or BENCHES:
        module = importlib.import_module(f"bench.{name}")
        began = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
            results[name] = module.measure(**_options(module.measure, arguments))
        if not arguments.json:
            about = (module.__doc__ or "").splitlines()[0]
            print(f"\n{name} ({time.monotonic() - began:.0f} s): {about}", flush=True)
            print(render(results[name]), flush=True)
    if arguments.json:
        print(msgspec.json.encode({"machine": machine(), "benches": results}).decode())
    return 0 if all(number.met for numbers in results.values() for number in numbers) else 1


def _options(measure: Callable[..., object], arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given of the options that this bench takes."""
    given = {name: getattr(arguments, name, None) for name in inspect.signature(measure).parameters}
    return {name: value for name, value in given.items() if value is not None}


def machine() -> dict[str, str]:
    """What one has to know to compare."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    sys.exit(main())
