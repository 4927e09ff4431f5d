"""`python -m bench [NAME …] [--json]`: run the benches and say which bounds are met."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time

import msgspec

from bench.table import Number, render

BENCHES = ("dispatch", "websockets", "cold", "boot", "memory", "imports", "chaos", "embed")


def main() -> int:
    """0: every bound is met; 1: one is not."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what the server promises.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)}; none: all of them")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHES)
    if unknown:
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    results: dict[str, list[Number]] = {}
    if not arguments.json:
        print(", ".join(f"{name} {value}" for name, value in machine().items()), flush=True)
    for name in arguments.names or BENCHES:
        module = importlib.import_module(f"bench.{name}")
        began = time.monotonic()
        results[name] = module.measure()
        if not arguments.json:
            about = (module.__doc__ or "").splitlines()[0]
            print(f"\n{name} ({time.monotonic() - began:.0f} s): {about}", flush=True)
            print(render(results[name]), flush=True)
    if arguments.json:
        print(msgspec.json.encode({"machine": machine(), "benches": results}).decode())
    return 0 if all(number.met for numbers in results.values() for number in numbers) else 1


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
