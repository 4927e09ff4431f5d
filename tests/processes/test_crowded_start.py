"""Functions that take long to load, and one processor for all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.running import eventually, project, serving

FUNCTIONS = 6
BOOT_S = 1.0
WORKS = """
import time

while time.process_time() < 0.5:
    pass


async def handler(request):
    return "loaded"
"""
SLEEPS = "import time\n\ntime.sleep(30)\n"


def on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this kernel does not count waiting")
def test_functions_that_load_at_once_do_not_use_up_one_anothers_time(tmp_path: Path) -> None:
    """Together they take three times what each of them may."""
    sources = {f"works{number}": WORKS for number in range(FUNCTIONS)} | {"sleeps": SLEEPS}
    config = f"[ai]\npreload = []\n[edge_runtime.defaults]\nboot_s = {BOOT_S}\n"
    with serving(project(tmp_path, sources, config), preexec_fn=on_one_core) as server:
        functions = eventually(lambda: server.metric()["functions"], "its functions")
        states = {name: found["state"] for name, found in functions.items()}
    assert states == {name: "ready" for name in sources} | {"sleeps": "failed"}
