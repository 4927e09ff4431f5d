"""Tours: programs of their own that try one client step by step, and report in JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_STEP = re.compile(r'^\s*@?step\("([^"]+)"', re.MULTILINE)


def steps(*sources: str) -> list[str]:
    """The names of the steps that these programs take."""
    return [name for source in sources for name in _STEP.findall((HERE / source).read_text())]


def travel(
    command: Sequence[str], sources: Sequence[str], world: dict[str, str], seconds: float = 60.0
) -> dict[str, Any]:
    """Run a tour; its report: for each step None, or what went wrong.

    Args:
        sources: the programs that name its steps.
        world: where the server is and which keys open it; the tour reads it from its input.
    """
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    tour = subprocess.run(
        command,
        input=json.dumps(world),
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=HERE,
        env=environ,
    )
    assert tour.returncode == 0, f"the tour ended with {tour.returncode}:\n{tour.stdout}\n{tour.stderr}"
    report: dict[str, Any] = json.loads(tour.stdout.splitlines()[-1])
    assert sorted(report) == sorted(steps(*sources))
    return report
