"""The files in docker/, as data."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"

yaml: Any = importlib.import_module("yaml")  # it comes without types


class Instruction(NamedTuple):
    """One of the Dockerfile, with its lines joined."""

    stage: int
    name: str
    rest: str


def instructions() -> list[Instruction]:
    """The Dockerfile's, in order; stage -1 is before the first FROM."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    found, stage = [], -1
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            name, rest = line.split(None, 1)
            stage += name == "FROM"
            found.append(Instruction(stage, name, rest))
    return found


def services(name: str) -> dict[str, dict[str, Any]]:
    """The services of a compose file, variables not put in."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / name).read_text())["services"]
    return found
