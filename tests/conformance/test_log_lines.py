"""Every line that a function writes says which function, which worker and which request it is of."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.running import Server, eventually, project, serving

TALKATIVE = """
import asyncio, logging, os, subprocess, sys, threading, traceback, warnings
from concurrent.futures import ThreadPoolExecutor
from runtime import wait_until

pool = ThreadPoolExecutor(1)
print("at import")


async def startup():
    print("in startup")


async def before_unload(reason):
    print("in before_unload")


async def later(text):
    await asyncio.sleep(0)
    print(text)


async def fail():
    raise ValueError("of a task")


def fail_on_a_thread():
    raise ValueError("of a thread")


def thread(target):
    one = threading.Thread(target=target)
    one.start()
    one.join()


async def handler(request):
    print("a line")
    print("one\\nof many")
    print("an error", file=sys.stderr)
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("an exception")
    warnings.warn("a warning")
    thread(lambda: print("on a thread"))
    thread(fail_on_a_thread)
    await asyncio.to_thread(print, "beside the event loop")
    await asyncio.get_running_loop().run_in_executor(None, print, "in its executor")
    pool.submit(print, "in a pool").result()
    await asyncio.create_task(later("in a task"))
    failed = asyncio.create_task(fail())
    await asyncio.wait([failed])
    del failed
    asyncio.get_running_loop().call_soon(print, "called back")
    os.write(1, b"to a descriptor\\n")
    subprocess.run(["echo", "in another program"])
    wait_until(later("after the answer"))
    print("without an end", end="")
    return {}
"""
PLAIN = """
import threading


def handler(request):
    print("a line of def")
    thread = threading.Thread(target=lambda: print("on a thread of def"))
    thread.start()
    thread.join()
    print("def without an end", end="")
    return {}
"""
ANYBODY_S = ("at import", "in startup", "in before_unload", "to a descriptor", "in another program")
TOLD = (
    "a line", "one", "of many", "an error", "an exception", "UserWarning: a warning", "on a thread",
    "ValueError: of a thread", "beside the event loop", "in its executor", "in a pool", "in a task",
    "called back", "after the answer", "without an end",
    *([] if sys.version_info < (3, 12) else ["ValueError: of a task"]),
)  # fmt: skip
TOLD_BY_DEF = ("a line of def", "on a thread of def", "def without an end")


class Told:
    """What a server wrote, and how two functions were called before."""

    def __init__(self, server: Server, ids: dict[str, str], pids: dict[str, int]) -> None:
        self.ids, self.pids = ids, pids
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in server.log.splitlines()]

    def one(self, text: str) -> dict[str, Any]:
        """The one record whose message has this line, or begins or ends with it."""
        [found] = [line for line in self.lines if _has(line.get("message", ""), text)]
        return found


def _has(message: str, text: str) -> bool:
    lines = message.splitlines()
    return text in lines or (": " in text and any(text in line for line in lines))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    root = project(tmp_path_factory.mktemp("told"), {"talkative": TALKATIVE, "plain": PLAIN})
    with serving(root, "--log-format", "json") as server:
        functions = server.metric()["functions"]
        pids = {name: function["pids"][0] for name, function in functions.items()}
        with server.client() as client:
            ids = {name: client.post(f"/{name}").headers["sb-request-id"] for name in pids}
        eventually(lambda: "after the answer" in server.log and "def without" in server.log, "the last lines")
        server.stop()
        return Told(server, ids, pids)


@pytest.mark.parametrize("text", TOLD)
def test_a_line_of_a_request_names_it(told: Told, text: str) -> None:
    line = told.one(text)
    assert (line["function"], line["worker"], line.get("request_id")) == (
        "talkative",
        told.pids["talkative"],
        told.ids["talkative"],
    )


@pytest.mark.parametrize("text", TOLD_BY_DEF)
def test_so_does_a_line_of_a_plain_def(told: Told, text: str) -> None:
    line = told.one(text)
    assert (line["function"], line["worker"], line.get("request_id")) == (
        "plain",
        told.pids["plain"],
        told.ids["plain"],
    )


@pytest.mark.parametrize("text", ANYBODY_S)
def test_a_line_of_no_request_names_its_worker(told: Told, text: str) -> None:
    line = told.one(text)
    assert (line["function"], line["worker"]) == ("talkative", told.pids["talkative"])
    assert "request_id" not in line


def test_a_request_s_own_line_names_all_three(told: Told) -> None:
    lines = {
        line["function"]: line for line in told.lines if line.get("event") == "request" and "function" in line
    }
    assert {name: (line["request_id"], line["worker"]) for name, line in lines.items()} == {
        name: (told.ids[name], told.pids[name]) for name in ("plain", "talkative")
    }
    assert {line["level"] for line in told.lines} >= {"info", "warning", "error"}
