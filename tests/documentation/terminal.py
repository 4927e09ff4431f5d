"""A shell that keeps its variables from block to block, as a reader's terminal does."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

_END = "-- end of the block --"
# curl is silent about its progress, and the commands find the server on its own port.
_PRELUDE = """
set -eo pipefail
curl() { command curl -sS "$@"; }
functions() {
  case "$1" in
    invoke|health) command functions "$1" --port "$PORT" "${@:2}" ;;
    *) command functions "$@" ;;
  esac
}
"""


class Terminal:
    """bash in a folder; the first command that fails ends it."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._script = folder.parent / "block.sh"
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(env),
            text=True,
            start_new_session=True,
        )
        self.run(_PRELUDE)

    def run(self, text: str) -> str:
        """Run a block; what it printed, both streams in one.

        Raises:
            AssertionError: one of its commands failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._script.write_text(text)
        # From a file, so that no command of the block reads the next lines as its input.
        self._process.stdin.write(f"source '{self._script}' </dev/null\necho; echo '{_END}'\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line.rstrip("\n") == _END:
                return printed[:-1]
            printed += line
        raise AssertionError(f"failed:\n{text}\n{printed}")

    def close(self) -> None:
        """End it, and all that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
