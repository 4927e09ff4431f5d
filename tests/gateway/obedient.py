"""A process that does what a test tells it, line by line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO

# Does what it is told line by line, and says when it is done.
OBEDIENT = """
import contextlib, ctypes, mmap, os, subprocess, sys, threading
kept = []
inherited = bytearray(INHERITED << 20)
lifeline, mine = os.pipe()

def fork(then=lambda: None):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        then()
        os.write(writer, b"x")
        os.close(mine)
        os.read(lifeline, 1)
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)

def hide():
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)

def on_a_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()

ctypes.CDLL(None).prctl(15, b"fn:worker", 0, 0, 0)
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Obedient:
    """A process that does what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._input: IO[str] = process.stdin
        self._output: IO[str] = process.stdout
        assert self._output.readline() == "ready\n"

    def ask(self, expression: str) -> str:
        """The value of an expression, as text."""
        self._input.write(f"print({expression}, flush=True)\n")
        self._input.flush()
        answer = self._output.readline().strip()
        assert self._output.readline() == "done\n"
        return answer

    def do(self, line: str) -> None:
        self._input.write(f"{line}\n")
        self._input.flush()
        assert self._output.readline() == "done\n"


@contextlib.contextmanager
def obedient(inherited: int = 0, become: Callable[[], None] | None = None) -> Iterator[Obedient]:
    """A process that has so many MB from the start; `become` is called in it before it is Python."""
    code = OBEDIENT.replace("INHERITED", str(inherited))
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=become,
    ) as process:
        try:
            yield Obedient(process)
        finally:
            os.killpg(process.pid, 9)
