"""`python -m tests.measure [PYTEST ARGUMENTS]`: run the tests, and say how much of runtime/ they run.

The server's processes have environments of their own, so no variable can tell them that
they are measured. A .pth file in the virtual environment does, while this runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import coverage

LEAST = 90.0  # percent, of the lines and of the branches
ROOT = Path(__file__).absolute().parent.parent
_HOOK = """\
import os, sys
going_on = os.path.isdir("/proc/{pid}") and os.path.isdir({folder!r})
if going_on and any(part.startswith("runtime.") for part in sys.orig_argv):
    from tests.measured import begin
    begin({folder!r}, {source!r})
"""


def main() -> int:
    """The exit status of the tests; 1 also where they leave out too much."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        os.chmod(folder, 0o1777)  # some servers are another user's
        data = os.path.join(folder, "coverage")
        command = ["coverage", "run", "--parallel-mode", f"--data-file={data}", "-m", "pytest", *sys.argv[1:]]
        with children_measured(folder):
            status = subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode
        measured = coverage.Coverage(data_file=data, config_file=str(ROOT / "pyproject.toml"))
        measured.combine([folder])
        shares = report(measured, os.path.join(folder, "coverage.json"))
    print("covered: " + ", ".join(f"{share:.1f} % of the {what}" for what, share in shares.items()))
    return status or (0 if min(shares.values()) >= LEAST else 1)


@contextlib.contextmanager
def children_measured(folder: str) -> Iterator[None]:
    """While it lasts, and we live, the server's processes in this virtual environment are measured."""
    hook = _HOOK.format(pid=os.getpid(), folder=folder, source=str(ROOT / "runtime"))
    path = Path(sysconfig.get_path("purelib")) / "zz_measured.pth"
    path.write_text(f"import sys; exec({hook!r})\n")
    try:
        yield
    finally:
        path.unlink()


def report(measured: coverage.Coverage, totals: str) -> dict[str, float]:
    """Print what is left out, file by file; percent of what is covered.

    Args:
        totals: a file to write to.
    """
    measured.report(file=sys.stdout)
    measured.json_report(outfile=totals)
    found = json.loads(Path(totals).read_text())["totals"]
    return {
        "lines": 100 * found["covered_lines"] / found["num_statements"],
        "branches": 100 * found["covered_branches"] / found["num_branches"],
    }


if __name__ == "__main__":
    sys.exit(main())
