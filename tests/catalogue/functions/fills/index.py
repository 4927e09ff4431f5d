"""Fills its temporary folder, with a few MB at the most."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from runtime import Request

MB = 1_000_000
HELD_S = 0.3


def path(name: str) -> Path:
    return Path(tempfile.gettempdir(), name)


def write() -> None:
    path("large").write_bytes(bytes(6 * MB))


def copy() -> None:
    path("one").write_bytes(bytes(MB))
    for number in range(5):
        shutil.copy(path("one"), path(f"copy-{number}"))


def lengthen() -> None:
    """A hole of six MB, and then something in each page of it."""
    with path("long").open("wb") as file:
        file.truncate(6 * MB)
        for at in range(0, 6 * MB, 4096):
            file.seek(at)
            file.write(b"x")


def one_after_the_other() -> None:
    for _ in range(6):
        path("one").write_bytes(bytes(MB))
        time.sleep(0.05)
        path("one").unlink()


def clear() -> None:
    for found in Path(tempfile.gettempdir()).iterdir():
        found.unlink()


WAYS = {"write": write, "copy": copy, "truncate": lengthen, "in-turn": one_after_the_other}


async def handler(request: Request) -> str:
    await asyncio.to_thread(WAYS[request.url.path.rpartition("/")[2]])
    await asyncio.sleep(HELD_S)
    await asyncio.to_thread(clear)
    return "all written"
