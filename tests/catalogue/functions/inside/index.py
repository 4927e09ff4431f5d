"""Looks around in its own process."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime import Request

PRINTS_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


def status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def child() -> bytes:
    done = subprocess.run([sys.executable, "-c", PRINTS_ENVIRONMENT], stdout=subprocess.PIPE, check=True)
    return done.stdout


async def awaited_child() -> bytes:
    """The same, through the event loop."""
    command = (sys.executable, "-c", PRINTS_ENVIRONMENT)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0]


def leave_child() -> int:
    """Start what would outlive this process: in a session of its own, and nobody waits for it."""
    return subprocess.Popen(["sleep", "60"], start_new_session=True).pid


def use_temp() -> dict[str, Any]:
    folder = Path(tempfile.gettempdir())
    deep = folder / "a" / "b" / "c"
    deep.mkdir(parents=True)
    file = deep / "note.txt"
    file.write_text("kept for a while")
    found = {
        "text": file.read_text(),
        "inside": file.resolve().is_relative_to(folder.resolve()),
        "mode": oct(folder.stat().st_mode & 0o777),
        "home": os.environ["HOME"] == str(folder),
    }
    file.unlink()
    return found | {"left": [*deep.iterdir()]}


def import_from_temp() -> str | None:
    Path(tempfile.gettempdir(), "dropped_here.py").write_text("value = 1")
    importlib.invalidate_caches()
    try:
        importlib.import_module("dropped_here")
    except ModuleNotFoundError as error:
        return error.name
    return None


def look(path: Path) -> dict[str, Any]:
    """What there is, or the error's name."""
    try:
        return {"found": sorted(os.listdir(path)) if path.is_dir() else path.read_text()}
    except OSError as error:
        return {"error": type(error).__name__}


def limits() -> dict[str, Any]:
    seen = status()
    return {
        "uid": os.getuid(),
        "capabilities": [int(seen[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")],
        "no_new_privileges": seen["NoNewPrivs"],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "own_session": os.getsid(0) == os.getpid(),
    }


def snapshot() -> dict[str, Any]:
    here = Path(__file__)
    letters = here.parents[2] / "assets"
    return {
        "beside": look(here.parent),
        "named": look(letters / "letter.txt"),
        "unnamed": look(letters / "draft.md"),
    }


def add_variable() -> str:
    os.environ["ADDED"] = "by a function"
    return os.environ["ADDED"]


PAGES: dict[str, Callable[[], Any]] = {
    "environment": lambda: dict(os.environ),
    "set": add_variable,
    "child": child,
    "awaited-child": awaited_child,
    "leave-child": leave_child,
    "end": lambda: os._exit(1),
    "temp": use_temp,
    "temp-name": tempfile.gettempdir,
    "import": lambda: {"not found": import_from_temp()},
    "limits": limits,
    "snapshot": snapshot,
}


async def handler(request: Request) -> Any:
    if path := request.query_params.get("path"):
        return look(Path(path))
    page = PAGES[request.url.path.rpartition("/")[2]]()
    return await page if inspect.isawaitable(page) else page
