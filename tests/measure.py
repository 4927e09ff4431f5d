"""`python -m tests.measure [PYTEST ARGUMENTS]`: run the tests, and say how much of runtime/ they run.

The server's processes have environments of their own, so no variable can tell them that
they are measured. A .pth file in the virtual environment does, while this runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

from tests import measured

LEAST = 90.0  # percent, of the lines and of the branches
ROOT = Path(__file__).absolute().parent.parent
# Not the templates and their workers, which are forked in their hundreds: the tests of
# runtime/worker run the same code in their own process. Nor the commands, for the same reason.
_SERVERS = ("runtime.supervisor", "runtime.gateway", "runtime.engine")
_HOOK = """\
import os, sys
going_on = os.path.isdir("/proc/{pid}") and os.path.isdir({folder!r})
if going_on and any(part in {servers!r} for part in sys.orig_argv):
    from tests.measured import begin
    begin({folder!r}, {source!r})
"""


def main() -> int:
    """The exit status of the tests; 1 also where they leave out too much."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        os.chmod(folder, 0o1777)  # some servers are another user's
        collected = coverage.Coverage(
            data_file=os.path.join(folder, "coverage"), config_file=str(ROOT / "pyproject.toml")
        )
        with servers_measured(folder), collected.collect():
            status = pytest.main(sys.argv[1:])
        collected.save()
        collected.combine([folder], keep=True)
        shares = report(collected, os.path.join(folder, "coverage.json"))
    print("covered: " + ", ".join(f"{share:.1f} % of the {what}" for what, share in shares.items()))
    return int(status) or (0 if min(shares.values()) >= LEAST else 1)


@contextlib.contextmanager
def servers_measured(folder: str) -> Iterator[None]:
    """While it lasts, and we live, the servers in this virtual environment are measured."""
    hook = _HOOK.format(pid=os.getpid(), folder=folder, servers=_SERVERS, source=str(ROOT / "runtime"))
    path = Path(sysconfig.get_path("purelib")) / "zz_measured.pth"
    path.write_text(f"import sys; exec({hook!r})\n")
    os.environ |= {measured.FOLDER: folder, measured.SOURCE: str(ROOT / "runtime")}
    try:
        yield
    finally:
        path.unlink()


def report(collected: coverage.Coverage, totals: str) -> dict[str, float]:
    """Print what is left out, file by file; percent of what is covered.

    Args:
        totals: a file to write to.
    """
    collected.report(file=sys.stdout)
    collected.json_report(outfile=totals)
    found = json.loads(Path(totals).read_text())["totals"]
    return {
        "lines": 100 * found["covered_lines"] / found["num_statements"],
        "branches": 100 * found["covered_branches"] / found["num_branches"],
    }


if __name__ == "__main__":
    sys.exit(main())
