"""What is saved serves at once; what does not load leaves in place what did."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.running import Server, body, eventually, project

from .users import ME

VERSION = "async def handler(request):\n    return {version!r}\n"
CONFIG = "[ai]\npreload = []\n"


def version(name: str) -> str:
    return VERSION.format(version=name)


class Edited:
    """A running server whose project is being edited."""

    def __init__(self, server: Server, client: httpx2.Client, root: Path) -> None:
        self.server, self.client, self.root = server, client, root

    def save(self, path: str, text: str) -> None:
        """Replace a file of the functions."""
        self.server.save(f"functions/{path}", text)

    def configure(self, text: str) -> None:
        (self.root / "supabase" / "config.toml").write_text(CONFIG + text)

    def get(self, name: str, **query: str) -> httpx2.Response:
        return self.client.get(f"/{name}", params=query)

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.metric()["functions"].get(name, {})
        return found

    def until(self, name: str, text: str) -> None:
        """Wait until a function answers with this text."""
        eventually(lambda: self.get(name).text == text, f"{text} from {name}; the log:\n{self.server.log}")

    def until_state(self, name: str, **wanted: str) -> None:
        eventually(lambda: wanted.items() <= self.state(name).items(), f"{wanted} of {name}")


@contextmanager
def editing(sources: dict[str, str], config: str = "") -> Iterator[Edited]:
    with ME.folder() as folder:
        root = project(folder / "project", sources, CONFIG + config)
        with ME.serving(root) as server, server.client() as client:
            yield Edited(server, client, root)


@pytest.fixture(scope="module")
def edited() -> Iterator[Edited]:
    """A server for the cases that have functions of their own."""
    with editing({"first": version("first")}) as edited:
        yield edited


# --- a newcomer's first minutes ------------------------------------------------------------


def test_a_new_function_serves_at_once_and_so_does_what_is_saved(edited: Edited) -> None:
    command = [sys.executable, "-m", "runtime.cli.main", "new", "summarize", "--root", str(edited.root)]
    subprocess.run(command, check=True, capture_output=True)
    eventually(lambda: edited.get("summarize").status_code == 200, "the new function")
    assert body(edited.client.post("/summarize", json={"name": "you"})) == {"message": "Hello you!"}
    edited.save("summarize/index.py", version("mine"))
    edited.until("summarize", "mine")
    edited.server.wait_for_log("summarize reloaded")


def test_a_syntax_error_keeps_the_old_version_and_shows_where_it_is(edited: Edited) -> None:
    edited.save("broken/index.py", version("good"))
    edited.until("broken", "good")
    edited.save("broken/index.py", "async def handler(request):\n    return 'bad\n")
    edited.server.wait_for_log("broken did not start; the previous version keeps serving")
    assert f'File "{edited.root}/functions/broken/index.py", line 2' in edited.server.log
    assert "SyntaxError: unterminated string literal" in edited.server.log
    assert edited.get("broken").text == "good"
    assert "SyntaxError" in edited.state("broken")["last_error"]
    edited.save("broken/index.py", version("fixed"))
    edited.until("broken", "fixed")
    assert edited.state("broken")["last_error"] == ""


def test_the_old_text_saved_again_clears_the_failure(edited: Edited) -> None:
    edited.save("undo/index.py", version("good"))
    edited.until("undo", "good")
    edited.save("undo/index.py", "raise RuntimeError('no')\n")
    eventually(lambda: "RuntimeError: no" in edited.state("undo")["last_error"], "the failure")
    edited.save("undo/index.py", version("good"))
    edited.until_state("undo", last_error="", state="ready")
    assert edited.get("undo").text == "good"


@pytest.mark.parametrize(
    ("name", "source", "why"),
    [
        (
            "lost",
            "import nothing_of_this_name\n",
            "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("empty", "x = 1\n", "exports neither `handler` nor `app`"),
        ("double", "handler = app = print\n", "exports both `handler` and `app`"),
        ("crash", "import os\nos._exit(3)\n", "its process ended while starting (status 3)"),
        ("leave", "import sys\nsys.exit('enough')\n", "SystemExit: enough"),
    ],
)
def test_a_function_that_never_loaded_is_refused_until_it_is_fixed(
    edited: Edited, name: str, source: str, why: str
) -> None:
    edited.save(f"{name}/index.py", source)
    eventually(lambda: why in edited.state(name).get("last_error", ""), f"{why}: {edited.state(name)}")
    response = edited.get(name)
    assert (response.status_code, body(response)["code"]) == (503, "BOOT_ERROR")
    assert why not in response.text
    edited.save(f"{name}/index.py", version("fixed"))
    edited.until(name, "fixed")
    assert edited.state(name)["last_error"] == ""


def test_a_worker_that_just_died_does_not_let_a_broken_save_replace_the_good_version(edited: Edited) -> None:
    edited.save("unlucky/index.py", version("good"))
    edited.until("unlucky", "good")
    edited.save("unlucky/index.py", "raise RuntimeError('no')\n")
    os.kill(edited.server.pid_of("fn:unlucky"), 9)
    eventually(lambda: "RuntimeError: no" in edited.state("unlucky")["last_error"], "the failure")
    edited.until("unlucky", "good")


# --- which files belong to whom ------------------------------------------------------------


def test_a_removed_function_is_gone_and_may_come_back(edited: Edited) -> None:
    edited.save("fleeting/index.py", version("one"))
    edited.until("fleeting", "one")
    pid = edited.server.pid_of("fn:fleeting")
    (edited.root / "functions" / "fleeting" / "index.py").unlink()
    (edited.root / "functions" / "fleeting").rmdir()
    eventually(lambda: edited.get("fleeting").status_code == 404, "a 404")
    assert body(edited.get("fleeting"))["code"] == "NOT_FOUND"
    eventually(lambda: pid not in edited.server.family(), "the end of its worker")
    edited.save("fleeting/index.py", version("two"))
    edited.until("fleeting", "two")


def test_shared_code_reloads_those_that_have_it_and_env_files_those_that_see_them(edited: Edited) -> None:
    source = (
        "import os\nfrom .._shared import common\n"
        "async def handler(request):\n"
        "    return f\"{common.VALUE} {os.environ.get('SHARED')} {os.environ.get('OWN')}\"\n"
    )
    edited.save("_shared/common.py", "VALUE = 1\n")
    edited.save("user/index.py", source)
    edited.until("user", "1 None None")
    edited.save("_shared/common.py", "VALUE = 2\n")
    edited.until("user", "2 None None")
    (edited.root / "supabase" / "functions" / ".env").write_text("SHARED=a\n")
    edited.until("user", "2 a None")
    edited.save("user/.env", "OWN=b\n")
    edited.until("user", "2 a b")
    (edited.root / "supabase" / "functions" / ".env").write_text("SHARED=c\n")
    edited.until("user", "2 c b")
    (edited.root / "functions" / "user" / ".env").unlink()
    edited.until("user", "2 c None")


def test_a_change_of_one_function_leaves_the_others_alone(edited: Edited) -> None:
    edited.save("neighbour/index.py", version("calm"))
    edited.until("neighbour", "calm")
    before = edited.state("neighbour")
    edited.save("restless/index.py", version("one"))
    edited.until("restless", "one")
    edited.save("restless/index.py", version("two"))
    edited.until("restless", "two")
    after = edited.state("neighbour")
    assert (after["pids"], after["generation"]) == (before["pids"], before["generation"])


def test_what_editors_and_tools_drop_reloads_nothing(edited: Edited) -> None:
    edited.save("quiet/index.py", version("quiet"))
    edited.until("quiet", "quiet")
    before = edited.state("quiet")
    folder = edited.root / "functions" / "quiet"
    for name in ("index.py~", ".index.py.swp", "#index.py#", ".#index.py", "4913", "index.pyc", "x.tmp"):
        (folder / name).write_text("dropped")
    for name in ("__pycache__", ".git", ".venv"):
        (folder / name).mkdir()
        (folder / name / "index.cpython-311.pyc").write_bytes(b"dropped")
    # A change that is one, behind them all, shows that they were seen and passed over.
    edited.save("loud/index.py", version("loud"))
    edited.until("loud", "loud")
    after = edited.state("quiet")
    assert (after["pids"], after["generation"]) == (before["pids"], before["generation"])


def test_a_file_that_is_no_module_reaches_the_function_with_its_version(edited: Edited) -> None:
    """Names of the standard library shadow nothing, and same names in two functions are two modules."""
    for name in ("queue", "http", "json"):
        edited.save(
            f"{name}/index.py",
            "import http.client, json, queue\n"
            "from . import util\n"
            "import util as absolute\n"
            "async def handler(request):\n"
            "    assert util is absolute\n"
            "    assert queue.Queue and http.client.OK == 200\n"
            "    return json.dumps(util.NAME)\n",
        )
        edited.save(f"{name}/util.py", f"NAME = 'util of {name}'\n")
    for name in ("queue", "http", "json"):
        edited.until(name, f'"util of {name}"')


def test_no_bytecode_is_written(edited: Edited) -> None:
    edited.save("clean/lib.py", "NAME = 'clean'\n")
    edited.save("clean/index.py", "from . import lib\n" + VERSION.format(version="clean"))
    edited.until("clean", "clean")
    assert not [path for path in edited.root.rglob("*.pyc") if "quiet" not in path.parts]


# --- the configuration ---------------------------------------------------------------------


def test_a_changed_configuration_is_in_force_at_once_and_a_broken_one_changes_nothing() -> None:
    source = "async def handler(request):\n    return str(len(await request.body()))\n"
    with editing({"sized": source}) as edited:
        url = f"{edited.server.functions}/sized"
        assert httpx2.get(url).status_code == 401
        edited.configure("[functions.sized]\nverify_jwt = false\n")
        eventually(lambda: httpx2.get(url).status_code == 200, "no check of tokens")
        edited.configure("[functions.sized]\nverify_jwt = false\nmax_body_mb = 0.00001\n")
        eventually(lambda: httpx2.post(url, content=b"x" * 20).status_code == 413, "the limit")
        assert httpx2.post(url, content=b"x" * 5).text == "5"
        edited.configure("[functions.sized]\nverify_jwt = ")
        edited.server.wait_for_log("the previous configuration stays in force")
        assert httpx2.post(url, content=b"x" * 20).status_code == 413
        edited.configure("[functions.sized]\nenabled = false\n")
        eventually(lambda: httpx2.get(url).status_code == 404, "a disabled function")
        edited.configure("")
        eventually(lambda: httpx2.get(url).status_code == 401, "the function as it was")


def test_the_first_function_of_an_empty_project_serves_without_a_restart() -> None:
    with ME.folder() as folder:
        root = folder / "project"
        root.mkdir()
        with ME.serving(root) as server, server.client() as client:
            command = [sys.executable, "-m", "runtime.cli.main", "new", "hello", "--root", str(root)]
            subprocess.run(command, check=True, capture_output=True)
            eventually(lambda: client.get("/hello").status_code == 200, "the first function")


def test_a_folder_that_is_replaced_by_another_is_followed() -> None:
    """As when another branch is checked out, or a deployment changes a link."""
    with editing({"one": version("one")}) as edited:
        other = edited.root.parent / "other"
        project(other, {"two": version("two")})
        (edited.root / "functions").rename(edited.root / "before")
        (edited.root / "functions").symlink_to(other / "functions")
        edited.until("two", "two")
        eventually(lambda: edited.get("one").status_code == 404, "the end of the first")
        (other / "functions" / "two" / "index.py").write_text(version("three"))
        edited.until("two", "three")


# --- requests while versions change --------------------------------------------------------

HOLD = """
import asyncio
from runtime import wait_until

async def handler(request):
    if request.url.path.endswith("/behind"):
        wait_until(behind())
        return "answered"
    print("begun")
    return f"VERSION {(await request.body()).decode()}"

async def behind():
    for count in range(30):
        await asyncio.sleep(0.01)
    print("the work of VERSION is done")
"""


def held(client: httpx2.Client, finish: threading.Event) -> httpx2.Response:
    def content() -> Iterator[bytes]:
        yield b"begun, "
        finish.wait(30)
        yield b"done"

    return client.post("/hold", content=content())


def test_a_request_in_flight_finishes_on_the_version_that_began_it() -> None:
    with editing({"hold": HOLD.replace("VERSION", "one")}) as edited, ThreadPoolExecutor(1) as pool:
        finish = threading.Event()
        old = edited.server.pid_of("fn:hold")
        answer = pool.submit(held, edited.client, finish)
        try:
            edited.server.wait_for_log("begun")
            edited.save("hold/index.py", version("two"))
            with edited.server.client() as other:
                eventually(lambda: other.get("/hold").text == "two", "the new version")
            assert old in edited.server.family()
            assert not answer.done()
        finally:
            finish.set()
        assert answer.result(20).text == "one begun, done"
        eventually(lambda: old not in edited.server.family(), "the end of the old worker")


def test_work_given_to_wait_until_is_done_before_a_drained_worker_goes() -> None:
    with editing({"hold": HOLD.replace("VERSION", "one")}) as edited:
        old = edited.server.pid_of("fn:hold")
        assert edited.client.get("/hold/behind").text == "answered"
        edited.save("hold/index.py", version("two"))
        edited.until("hold", "two")
        edited.server.wait_for_log("the work of one is done")
        eventually(lambda: old not in edited.server.family(), "the end of the old worker")


PAIR = "from . import half\n\nasync def handler(request):\n    return f'{number} {{half.NUMBER}}'\n"


def test_a_hundred_quick_saves_under_load_fail_no_request_and_mix_no_versions() -> None:
    """Both files of a version are replaced at one moment, as a checkout of another branch does it."""
    sources = {"pair": PAIR.format(number=0), "pair/half.py": "NUMBER = 0\n"}
    with editing(sources) as edited:
        over = threading.Event()
        gateway = psutil.Process(edited.server.pid_of("fn-gateway"))

        def load() -> list[tuple[int, str]]:
            with edited.server.client() as client:
                answers = iter(lambda: None if over.is_set() else client.get("/pair"), None)
                return [(answer.status_code, answer.text) for answer in answers if answer is not None]

        with ThreadPoolExecutor(3) as pool:
            loads = [pool.submit(load) for _ in range(3)]
            try:
                save_many(edited, range(1, 31))
                before = gateway.memory_info().rss
                save_many(edited, range(31, 101))
            finally:
                over.set()
        answers = [answer for load in loads for answer in load.result()]
        assert len(answers) > 100
        assert {status for status, _ in answers} == {200}
        seen = {text for _, text in answers}
        assert all(text.split()[0] == text.split()[1] for text in seen), seen
        assert len(seen) > 10
        assert gateway.memory_info().rss < before + 8 * 2**20
        eventually(lambda: list(edited.server.family().values()).count("fn:pair") == 1, "one worker")
        [temp] = (edited.root.parent / "tmp").iterdir()
        eventually(lambda: len(list(temp.iterdir())) == 1, "one temporary folder")


def save_many(edited: Edited, numbers: range) -> None:
    """Replace the function's folder by another version of it, again and again; wait for every tenth."""
    folder = edited.root / "functions" / "pair"
    for number in numbers:
        staged = edited.root / f"staged-{number}"
        staged.mkdir()
        (staged / "index.py").write_text(PAIR.format(number=number))
        (staged / "half.py").write_text(f"NUMBER = {number}\n")
        exchange(staged, folder)
        if number % 10 == 0:
            edited.until("pair", f"{number} {number}")


def exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step (renameat2 with RENAME_EXCHANGE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")
