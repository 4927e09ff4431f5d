"""The project that the catalogue calls: `functions/` beside this file, and what cannot lie there.

    python -m tests.catalogue.project FOLDER

writes it down, for a server of one's own to serve.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
BODY_LIMIT_MB = 150
HEAD_S = 0.5
IDLE_S = 0.3
WAIT_S = 0.3

COPIES = {
    "brief": "slow",
    "circleb": "circlea",
    "leaves-cpu": "leaving",
    "leaves-memory": "leaving",
    "leaves-time": "leaving",
    "neighbour": "inside",
    "quiet": "sockets",
    "spinner": "spins",
}
"""Functions with the code of another."""

BROKEN = {
    "bare-import": "import oak\n",
    "relative-import": "from .nowhere import handler\n",
    "raises": 'raise RuntimeError("not today")\n',
    "zero-bytes": "",
    "wrong-entry": "async def handler(request): return 1\n",
}
"""Functions that do not boot: no checker would let them lie here."""

ENVIRONMENT = {
    "supabase/functions/.env": "SHARED_VALUE=of-every-function\n",
    "functions/inside/.env": "OWN_VALUE=of-inside\n",
    "functions/neighbour/.env": "OWN_VALUE=of-neighbour\n",
}
ASSETS = {"assets/letter.txt": "Dear reader", "assets/draft.md": "not to be sent"}

CONFIG = f"""
[ai]
preload = []
[edge_runtime]
head_s = {HEAD_S}

[functions.no-entry]
enabled = true
[functions.entry]
entrypoint = "main.py"
[functions.wrong-entry]
entrypoint = "nowhere.py"
[functions.preflights]
cors = "function"
[functions.inside]
static_files = ["assets/*.txt"]

[functions.spins]
cpu_ms = 100
[functions.burns]
cpu_ms = 50
max_body_mb = {BODY_LIMIT_MB}
[functions.hogs]
memory_mb = 96
[functions.fills]
tmp_mb = 3
[functions.slow]
timeout_s = 0.3
[functions.brief]
timeout_s = 0.05
[functions.idle]
idle_s = {IDLE_S}
[functions.quiet]
websocket_idle_s = {IDLE_S}

[functions.narrow]
concurrency = 1
max_workers = 1
queue = 1
queue_wait_s = 0.01
[functions.circlea]
concurrency = 2
max_workers = 1
queue_wait_s = {WAIT_S}
[functions.circleb]
concurrency = 2
max_workers = 1
queue_wait_s = {WAIT_S}

[functions.leaving]
memory_mb = 96
[functions.leaves-cpu]
cpu_ms = 100
[functions.leaves-memory]
memory_mb = 96
[functions.leaves-time]
timeout_s = 0.3
"""


def lay_out(root: Path) -> Path:
    """Write the whole project down; its folder."""
    names = (path.name for path in (HERE / "functions").iterdir())
    _copy(root, {name: name for name in names} | COPIES)
    (root / "functions" / "no-entry").mkdir()
    (root / "functions" / "no-entry" / "other.py").write_text("value = 1\n")
    _write(root, {f"functions/{name}/index.py": text for name, text in BROKEN.items()})
    _write(root, ENVIRONMENT | ASSETS | {"supabase/config.toml": CONFIG})
    for name in ENVIRONMENT:
        (root / name).chmod(0o600)
    return root


def lay_out_some(root: Path, *names: str, config: str) -> Path:
    """Write a few of the functions down, for a server that a test may do anything with; its folder."""
    _copy(root, {name: name for name in names})
    _write(root, {"supabase/config.toml": f"[ai]\npreload = []\n{config}"})
    return root


def _copy(root: Path, originals: Mapping[str, str]) -> None:
    for name, original in originals.items():
        source, target = HERE / "functions" / original, root / "functions" / name
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def _write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
