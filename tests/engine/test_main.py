"""How the engine's process sets itself up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .tiny import write_tokenizer

_TOKENIZE = """
import socket, sys
from pathlib import Path
import psutil
from runtime.engine.main import main
from runtime.engine.tokenizer import TextTokenizer

ours, theirs = socket.socketpair()
ours.close()
tokenizer = TextTokenizer(Path(sys.argv.pop()), 20)
sys.argv += ["--fd", str(theirs.detach())]
main()  # nobody is behind its door
before = psutil.Process().num_threads()
tokenizer.encode(["hello", "word"])
print(psutil.Process().num_threads() - before)
"""


def test_texts_are_tokenized_on_no_threads_but_the_engine_s_own(tmp_path: Path) -> None:
    """Those of the library are shared by all calls: a short one would wait for another's long texts."""
    write_tokenizer(tmp_path / "tokenizer.json")
    command = [sys.executable, "-c", _TOKENIZE, str(tmp_path / "tokenizer.json")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    assert int(done.stdout) == 0
