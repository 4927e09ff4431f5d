"""`startup` and `before_unload`, over a real server."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.running import HELLO, Server, project, serving

HANDLER = """
async def handler(request):
    return "hello"
"""
HOOKED = """
import asyncio
from runtime import StreamingResponse

print("module")
leaving = asyncio.Event()
VERSION = 1

async def startup():
    print("starting up")

async def before_unload(reason):
    print(f"{VERSION} unloading: {reason}")
    leaving.set()
    await asyncio.sleep(0.01)
    print(f"{VERSION} unloaded")

async def handler(request):
    if request.url.path.endswith("/long"):
        print("long request")
        await leaving.wait()
        return "finished"
    return VERSION
"""
MISTAKES = {
    "raises": "async def startup():\n    raise ValueError('no database')\n",
    "raises-thread": "def startup():\n    raise ValueError('no database on a thread')\n",
    "exits": "import sys\ndef startup():\n    sys.exit('enough')\n",
    "hangs": "import asyncio\nasync def startup():\n    await asyncio.Event().wait()\n",
    "blocks": "import time\ndef startup():\n    time.sleep(3600)\n",
    "import": "import time\ntime.sleep(3600)\n",
    "lifespan": "del handler\nasync def app(scope, receive, send):\n    while await receive(): ...\n",
    "signature": "async def before_unload():\n    ...\n",
    "kind": "startup = 5\n",
    "generator": "async def startup():\n    yield\n",
}
TOLD = {
    "raises": "ValueError: no database",
    "raises-thread": "ValueError: no database on a thread",
    "exits": "SystemExit: enough",
    "hangs": "it was not ready within 0.3 s (boot_s): its startup() does not end",
    "blocks": "it was not ready within 0.3 s (boot_s): its startup() does not end",
    "import": "it was not ready within 0.3 s (boot_s): its import does not end",
    "lifespan": "it was not ready within 0.3 s (boot_s): the startup of its application's lifespan does not",
    "signature": "`before_unload` cannot be called as `async def before_unload(reason)`",
    "kind": "`startup` is of type int: define `async def startup()`, or rename it",
    "generator": "`startup` is a generator: it must not `yield`",
}
CONFIG = """
[ai]
preload = []
[functions.hangs]
boot_s = 0.3
[functions.blocks]
boot_s = 0.3
[functions.import]
boot_s = 0.3
[functions.lifespan]
boot_s = 0.3
"""


def lines(server: Server, *texts: str) -> list[str]:
    """Which of these texts were logged, in the order of the log."""
    found = [(line.rstrip().endswith(text), text) for line in server.log.splitlines() for text in texts]
    return [text for matches, text in found if matches]


def test_a_startup_that_fails_is_a_boot_error_with_its_reason_in_the_log(tmp_path: Path) -> None:
    functions = {name: HANDLER + source for name, source in MISTAKES.items()}
    with serving(project(tmp_path, functions | {"fine": HANDLER}, CONFIG)) as server:
        with server.client() as client:
            for name, said in TOLD.items():
                response = client.get(f"/{name}")
                assert (response.status_code, response.json()["code"]) == (503, "BOOT_ERROR"), name
                assert said in server.log, f"{name}: {server.log}"
            assert client.get("/fine").text == "hello"
        assert "in startup\n" in server.log
        assert "functions/raises/index.py" in server.log
    assert server.process.returncode == 0


def test_hooks_run_before_the_first_request_and_when_a_new_version_takes_over(tmp_path: Path) -> None:
    root = project(tmp_path, {"hooked": HOOKED, "hello": HELLO})
    with serving(root) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        assert client.get("/hooked").json() == 1
        assert lines(server, "module", "starting up", "unloading: reload") == ["module", "starting up"]
        long = pool.submit(lambda: client.get("/hooked/long").text)
        server.wait_for_log("long request")
        newer = HOOKED.replace("VERSION = 1", "VERSION = 2")
        server.save_until("functions/hooked/index.py", newer, lambda: client.get("/hooked").json() == 2)
        assert long.result() == "finished"  # it was told while its request was in flight
        server.wait_for_log("1 unloaded")
        assert lines(server, "starting up", "1 unloading: reload") == ["starting up"] * 2 + [
            "1 unloading: reload"
        ]
    assert "2 unloading: termination" in server.log
    assert "2 unloaded" in server.log


def test_before_unload_is_called_while_the_last_requests_of_a_stopping_server_run(tmp_path: Path) -> None:
    with (
        serving(project(tmp_path, {"hooked": HOOKED})) as server,
        server.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        long = pool.submit(lambda: client.get("/hooked/long"))
        server.wait_for_log("long request")
        server.process.send_signal(signal.SIGTERM)
        assert long.result().text == "finished"
        assert server.stop() == 0
        assert server.log.count("1 unloading: termination") == 1
        assert lines(server, "1 unloaded") == ["1 unloaded"]


def test_a_before_unload_that_fails_or_hangs_keeps_no_server_from_stopping(tmp_path: Path) -> None:
    hooks = {
        "raises": "async def before_unload(reason):\n    raise ValueError('no goodbye')\n",
        "exits": "def before_unload(reason):\n    raise SystemExit('no')\n",
        "hangs": "import asyncio\nasync def before_unload(reason):\n    await asyncio.Event().wait()\n",
        "blocks": "import time\ndef before_unload(reason):\n    time.sleep(3600)\n",
    }
    config = "[ai]\npreload = []\n[edge_runtime]\nshutdown_s = 1\n"
    functions = {name: hook + HANDLER for name, hook in hooks.items()}
    with serving(project(tmp_path, functions, config)) as server:
        with server.client() as client:
            assert {client.get(f"/{name}").text for name in hooks} == {"hello"}
        assert server.stop() == 0
    assert server.log.count("before_unload failed") == 2
    assert "ValueError: no goodbye" in server.log
    assert "SystemExit: no" in server.log
    for name in ("hangs", "blocks"):
        (line,) = [line for line in server.log.splitlines() if "did not end within" in line and name in line]
        assert line.endswith(" before_unload did not end within 1 s")


def test_a_worker_that_does_not_leave_is_killed_and_that_is_told(tmp_path: Path) -> None:
    blocked = "import time\nasync def before_unload(reason):\n    time.sleep(3600)\n" + HANDLER
    config = "[ai]\npreload = []\n[functions.blocked]\ntimeout_s = 1\n[edge_runtime]\nshutdown_s = 1\n"
    root = project(tmp_path, {"blocked": blocked}, config)
    with serving(root) as server, server.client() as client:
        newer = HANDLER.replace("hello", "newer")
        server.save_until("functions/blocked/index.py", newer, lambda: client.get("/blocked").text == "newer")
        server.wait_for_log("did not end within 1 s and was killed: something blocks its event loop")
        server.save_until(
            "functions/blocked/index.py", blocked, lambda: client.get("/blocked").text == "hello"
        )
        assert server.stop() == 0
    assert server.log.count("did not end within 1 s and was killed") == 2
