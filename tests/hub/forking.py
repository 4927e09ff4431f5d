"""Pulls in processes of their own, forked from one that has imported everything they need.

Run as `python -m tests.hub.forking STORE NAME` it pulls once for each line on stdin: it
prints the process id, and its exit status when it has ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


class Forker:
    """Starts pulls, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self) -> int:
        """The process id of a new pull."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._number()

    def ended(self) -> int:
        """Wait for it; its exit status, or the number of the signal that ended it, negated."""
        return self._number()

    def _number(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def forking(models_dir: Path, name: str, endpoint: str) -> Iterator[Forker]:
    """Pulls of one model from one hub."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub.forking", str(models_dir), name],
        env={"PATH": os.environ["PATH"], "HOME": os.devnull, "HF_ENDPOINT": endpoint},
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Forker(process)
        assert process.stdin is not None
        process.stdin.close()


def main(models_dir: str, name: str) -> None:
    from runtime.engine.models.hub import Hub
    from runtime.engine.models.store import Store
    from tests.hub.pulling import QUICK, pulled

    with Hub(QUICK, print):
        pass  # imports what a pull needs
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            pulled(Store(models_dir, {}), name)
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
